//! From a destination to the addresses that may be contacted for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::time::Instant;

use super::route::Target;
use super::server_proxy::Via;
use super::{Client, Phase, Trace, blocked};
use crate::delivery::End;
use crate::delivery::guard::{Destination, DestinationError, GuardedAddr, Host, ResolveError, is_localhost};

impl Client {
    /// Every address of the target, none if a proxy resolves the name.
    pub(super) async fn resolve_target(&self, target: Target<'_>, trace: &mut Trace) -> Result<Vec<GuardedAddr>, End> {
        let Some(via) = self.via(target).filter(|via| via.proxy.resolves) else {
            return self.resolve(target.destination, trace).await;
        };
        self.inner.policy.check_delegated(target.destination, via.is_own).map_err(blocked)?;
        Ok(Vec::new())
    }

    /// Every address of the destination. All must be allowed: a name that also points inside is not half good.
    pub(super) async fn resolve(&self, destination: &Destination, trace: &mut Trace) -> Result<Vec<GuardedAddr>, End> {
        let policy = &self.inner.policy;
        trace.phase = Phase::Dns;
        policy.check_destination(destination).map_err(blocked)?;
        let name = match destination.host() {
            Host::Ip(ip) => {
                let address = SocketAddr::new(*ip, destination.port());
                return policy.check(address).map(|address| vec![address]).map_err(blocked);
            }
            Host::Domain(name) => name,
        };
        let found = self.look_up(name, trace).await.map_err(|error| unresolved(name, error))?;
        let mut checked = found.into_iter().map(|ip| policy.check_named(name, SocketAddr::new(ip, destination.port())));
        if !is_localhost(name) {
            return checked.collect::<Result<_, _>>().map_err(|error| self.led_inside(name, &error));
        }
        // The name is no one's to point elsewhere, so the family that is allowed may do.
        let (mut allowed, mut refused) = (Vec::new(), None);
        for address in &mut checked {
            match address {
                Ok(address) => allowed.push(address),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        match refused {
            Some(error) if allowed.is_empty() => Err(self.led_inside(name, &error)),
            _ => Ok(allowed),
        }
    }

    /// Every address of a proxy.
    pub(super) async fn resolve_proxy(&self, via: Via<'_>, trace: &mut Trace) -> Result<Vec<GuardedAddr>, End> {
        let address = &via.proxy.address;
        if !via.is_own {
            return self.resolve(address, trace).await.map_err(End::of_proxy);
        }
        trace.phase = Phase::Dns;
        let found = match address.host() {
            Host::Ip(ip) => Ok(vec![*ip]),
            Host::Domain(name) => self.look_up(name, trace).await.map_err(|error| error.to_string()),
        };
        let check = |ip| self.inner.policy.check_own_proxy(SocketAddr::new(ip, address.port()));
        let checked = found.and_then(|found| {
            found.into_iter().map(check).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
        });
        checked.map_err(|error| self.own_proxy_fails(&error))
    }

    /// At least one address.
    async fn look_up(&self, name: &str, trace: &mut Trace) -> Result<Vec<IpAddr>, ResolveError> {
        let asked_at = Instant::now();
        let answer = if matches!(name, "localhost" | "localhost.") {
            Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
        } else {
            let _lookup = self.inner.sockets.lookup().await;
            self.inner.resolver.resolve(name).await
        };
        // Also of a name that is not there: a time that only some have would tell them apart.
        *trace.timings.dns.get_or_insert_default() += asked_at.elapsed();
        match answer {
            Ok(found) if found.is_empty() => Err(ResolveError::NotFound(format!("{name} has no address"))),
            answer => answer,
        }
    }

    /// The end of an attempt whose receiver's name leads to where it may not. The log alone says so.
    pub(super) fn led_inside(&self, name: &str, error: &DestinationError) -> End {
        let (DestinationError::Invalid(detail) | DestinationError::Forbidden(detail)) = error;
        if let Some(left_out) = self.inner.refusals.admit(Instant::now().into_std()) {
            tracing::warn!(name, detail, left_out, "a receiver's name leads to an address that may not be contacted");
        }
        unresolved(name, ResolveError::NotFound(format!("{name}: {detail}")))
    }

    /// The end of an attempt whose way is the operator's proxy, which cannot be used. Its name and its certificate are no
    /// business of the owners of webhooks, so the log alone has the `error`.
    pub(super) fn own_proxy_fails(&self, error: &str) -> End {
        if let Some(left_out) = self.inner.refusals.admit(Instant::now().into_std()) {
            tracing::warn!(error, left_out, "the server's own proxy cannot be used");
        }
        End::Proxy("the server's own proxy cannot be used (its log says why)".to_owned())
    }
}

/// The end of an attempt whose receiver's name has no address that may be contacted, for whatever reason.
fn unresolved(name: &str, error: ResolveError) -> End {
    match error {
        ResolveError::NotFound(detail) => {
            End::Dns { reason: format!("{name} is not there, or has a forbidden address"), detail }
        }
        ResolveError::Failed(reason) => End::Dns { detail: reason.clone(), reason },
    }
}
