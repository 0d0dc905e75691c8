//! From a destination to a stream: to a checked address, or through a proxy.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::request::Forwarding;
use super::route::{ProxyKind, Target};
use super::server_proxy::Via;
use super::stream::Stream;
use super::tls_error;
use super::tunnel::{self, Hop, Refusal};
use super::{Client, MAX_ADDRESSES_TRIED, Phase, Trace, blocked};
use crate::delivery::End;
use crate::delivery::guard::{Destination, GuardedAddr, Host};
use crate::fit::fit;

/// A stream to a destination, before TLS.
pub(super) struct Dialled {
    pub(super) stream: Stream,
    /// The destination's; `None` if a proxy resolved its name.
    pub(super) address: Option<GuardedAddr>,
    /// Set if the stream ends at a proxy, which passes requests on.
    pub(super) forwarding: Option<Forwarding>,
    /// Until when the connection must be made, TLS included.
    pub(super) deadline: Instant,
}

impl Client {
    /// Directly.
    pub(super) async fn dial(&self, destination: &Destination, trace: &mut Trace) -> Result<Dialled, End> {
        let mut addresses = self.resolve(destination, trace).await?;
        trace.phase = Phase::Connect;
        let began_at = Instant::now();
        let deadline = began_at + self.inner.connect_timeout;
        let (tcp, address) = self.connect_to_first(&mut addresses, deadline).await?;
        self.check_connected(&tcp, destination)?;
        trace.timings.connect = Some(began_at.elapsed());
        Ok(Dialled { stream: Stream::Plain(tcp), address: Some(address), forwarding: None, deadline })
    }

    /// Through a proxy, whose own address is checked as any other is, unless it is the operator's. The destination's addresses are checked here
    /// and the proxy is handed one of them, or the name if it is for the proxy to resolve.
    pub(super) async fn dial_through(
        &self,
        via: Via<'_>,
        target: Target<'_>,
        trace: &mut Trace,
    ) -> Result<Dialled, End> {
        let (destination, proxy) = (target.destination, via.proxy);
        let mut addresses = self.resolve_target(target, trace).await?;
        self.inner.turns.order(&mut addresses);
        let hops = match destination.host() {
            Host::Domain(name) if proxy.resolves => vec![(Hop::Name(name, destination.port()), None)],
            Host::Ip(ip) if proxy.resolves => vec![(Hop::Address(SocketAddr::new(*ip, destination.port())), None)],
            _ => addresses.iter().map(|address| (Hop::Address(address.get()), Some(*address))).collect(),
        };
        let mut proxies = self.resolve_proxy(via, trace).await?;
        let limit = self.inner.connect_timeout;
        let began_at = Instant::now();
        let deadline = began_at + limit;
        let mut last_error = End::Connect("the host has no address".to_owned());
        let tried = hops.len().min(MAX_ADDRESSES_TRIED);
        for (index, (hop, address)) in hops.iter().take(tried).enumerate() {
            let share = share(deadline, tried - index);
            self.check_not_itself(hop)?;
            trace.phase = Phase::Proxy;
            let mut stream = self.reach(via, target, &mut proxies, share).await?;
            trace.phase = Phase::Tunnel;
            last_error = match timeout_at(share, tunnel::open(&mut stream, proxy, hop)).await {
                Ok(Ok(())) => {
                    trace.timings.connect = Some(began_at.elapsed());
                    return Ok(Dialled { stream, address: *address, forwarding: None, deadline });
                }
                Ok(Err(Refusal { reason, no_connect: Some(status), .. })) if !destination.is_tls() => {
                    let forwarding = Some(forwarding(via, destination, status, &reason)?);
                    trace.phase = Phase::Proxy;
                    let stream = self.reach(via, target, &mut proxies, share).await?;
                    trace.timings.connect = Some(began_at.elapsed());
                    return Ok(Dialled { stream, address: *address, forwarding, deadline });
                }
                Ok(Err(Refusal { reason, another_address_may_do: true, .. })) => {
                    End::Connect(format!("proxy: {reason}"))
                }
                Ok(Err(Refusal { reason, .. })) => return Err(End::Proxy(reason)),
                Err(_) => Phase::Tunnel.timed_out(limit),
            };
            address.filter(|_| hops.len() > 1).inspect(|address| self.inner.turns.failed(*address));
        }
        Err(last_error)
    }

    /// A stream to the proxy, which is at one of `proxies`.
    async fn reach(
        &self,
        via: Via<'_>,
        target: Target<'_>,
        proxies: &mut [GuardedAddr],
        deadline: Instant,
    ) -> Result<Stream, End> {
        let (limit, proxy) = (self.inner.connect_timeout, via.proxy);
        let (tcp, _) = self.connect_to_first(proxies, deadline).await.map_err(End::of_proxy)?;
        self.check_connected(&tcp, &proxy.address).map_err(|end| {
            if via.is_own { self.own_proxy_fails(&end.error_text().unwrap_or_default()) } else { end.of_proxy() }
        })?;
        if !proxy.address.is_tls() {
            return Ok(Stream::Plain(tcp));
        }
        // What a webhook trusts and shows is not for the operator's proxy.
        let connector = if via.is_own { self.inner.tls.clone() } else { self.connector(target)? };
        let handshake = Stream::Plain(tcp).secured(&connector, proxy.address.server_name().clone());
        match timeout_at(deadline, handshake).await {
            Ok(secured) => secured.map_err(|error| {
                let words = tls_error::handshake_failure(&error).replace("the receiver", "the proxy");
                if via.is_own { self.own_proxy_fails(&words) } else { End::Proxy(format!("tls: {words}")) }
            }),
            Err(_) => Err(Phase::Proxy.timed_out(limit)),
        }
    }

    /// Refuses a connection that turns out to have reached this process.
    fn check_connected(&self, tcp: &TcpStream, destination: &Destination) -> Result<(), End> {
        let broken = |error: io::Error| End::Connect(error.to_string());
        let (local, peer) = (tcp.local_addr().map_err(broken)?, tcp.peer_addr().map_err(broken)?);
        let name = match destination.host() {
            Host::Ip(_) => None,
            Host::Domain(name) => Some(&**name),
        };
        self.inner.policy.check_connected(local, peer).map_err(|error| match name {
            Some(name) => self.led_inside(name, &error),
            None => blocked(error),
        })
    }

    /// Refuses to be led back to this process by a proxy, at an address of this machine that no check of addresses
    /// knows. Nothing is sent: the system says from which address it would send, which is the same if it is its own.
    fn check_not_itself(&self, hop: &Hop<'_>) -> Result<(), End> {
        let Hop::Address(address) = hop else { return Ok(()) };
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).map_err(|error| not_connected(&error))?;
        match socket.connect(address).and_then(|()| socket.local_addr()) {
            Ok(local) => self.inner.policy.check_connected(local, *address).map_err(blocked),
            // There is no way there from this machine, so it is not this machine.
            Err(_) => Ok(()),
        }
    }
}

/// How a proxy that has refused `CONNECT` with `refusal` is asked to pass requests on to `destination`.
///
/// Such a request names its receiver alone by its URL and by `Host`, and the proxy goes where they say. So a receiver with
/// a name gets none unless the proxy may resolve names: with a checked address in the place of the name, the receiver would
/// be asked for another site than the webhook's.
fn forwarding(via: Via<'_>, destination: &Destination, refusal: u16, reason: &str) -> Result<Forwarding, End> {
    let ProxyKind::Http { authorization } = &via.proxy.kind else { return Err(End::Proxy(reason.to_owned())) };
    if matches!(destination.host(), Host::Domain(_)) && !via.proxy.resolves {
        let setting = if via.is_own { "proxy_resolves on the server" } else { "\"resolve\": \"proxy\"" };
        let way_out = format!("a receiver with a name and without TLS needs {setting} with such a proxy");
        return Err(End::Proxy(format!("{reason} to CONNECT; {way_out}")));
    }
    Ok(Forwarding { authorization: authorization.clone(), refusal })
}

/// When the next of `remaining` tries that share the time until `deadline` must have ended.
fn share(deadline: Instant, remaining: usize) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / fit(remaining, u32::MAX)
}

impl End {
    /// Says that it was the proxy that could not be reached, of which the receiver knows nothing.
    pub(super) fn of_proxy(self) -> Self {
        match self {
            Self::Blocked(reason) => Self::Blocked(format!("proxy: {reason}")),
            Self::Local(reason) => Self::Local(reason),
            end => Self::Proxy(end.error_text().unwrap_or_default()),
        }
    }
}

impl Client {
    /// Tries the addresses of one host as it is their turn, each for its share of the time that is left.
    async fn connect_to_first(
        &self,
        addresses: &mut [GuardedAddr],
        deadline: Instant,
    ) -> Result<(TcpStream, GuardedAddr), End> {
        let turns = &self.inner.turns;
        turns.order(addresses);
        let is_one_of_many = addresses.len() > 1;
        let mut last_error = None;
        let tried = addresses.len().min(MAX_ADDRESSES_TRIED);
        for (index, address) in addresses.iter().take(tried).enumerate() {
            let error = match timeout_at(share(deadline, tried - index), TcpStream::connect(address.get())).await {
                Ok(Ok(tcp)) => {
                    // A request leaves in one piece; waiting for more would only delay it.
                    tcp.set_nodelay(true).map_err(|error| End::Connect(error.to_string()))?;
                    if is_one_of_many {
                        turns.connected(*address);
                    }
                    return Ok((tcp, *address));
                }
                // Without IPv6 at this machine, what its other addresses said is what counts.
                Ok(Err(error)) if is_no_way(&error) && last_error.is_some() => None,
                Ok(Err(error)) => Some(not_connected(&error)),
                Err(_) => Some(Phase::Connect.timed_out(self.inner.connect_timeout)),
            };
            last_error = error.or(last_error);
            if is_one_of_many {
                turns.failed(*address);
            }
        }
        Err(last_error.unwrap_or_else(|| End::Connect("the host has no address".to_owned())))
    }
}

/// Whether this machine has no way to such an address: `EAFNOSUPPORT`, `EADDRNOTAVAIL` and `ENETUNREACH` of Linux.
fn is_no_way(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| [97, 99, 101].contains(&code))
}

/// Why there is no connection: the receiver's doing, or this machine's want of descriptors, ports or memory.
fn not_connected(error: &io::Error) -> End {
    /// `EMFILE`, `ENFILE`, `EADDRNOTAVAIL`, `ENOBUFS` and `ENOMEM` of Linux.
    const WANTS: [i32; 5] = [24, 23, 99, 105, 12];
    if error.raw_os_error().is_some_and(|code| WANTS.contains(&code)) {
        End::Local(error.to_string())
    } else {
        End::Connect(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_does_not_speak_against_the_receiver() {
        let exhausted = not_connected(&io::Error::from_raw_os_error(24));
        let refused = not_connected(&io::Error::from_raw_os_error(111));
        assert!(matches!(exhausted, End::Local(_)) && !exhausted.counts_as_failure(), "{exhausted:?}");
        assert!(matches!(refused, End::Connect(_)) && refused.counts_as_failure(), "{refused:?}");
    }
}
