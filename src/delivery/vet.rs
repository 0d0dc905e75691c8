//! The check before a webhook is registered: it refuses destinations that may not be contacted, as they are written.

use super::client::{Client, Target, VetError};
use super::guard::DestinationError;
use super::receiver::Webhook;

impl Client {
    /// Whether the webhook may be registered: checks its URL, its proxy and its token endpoint without resolving names,
    /// since the answer would let users explore the private network. Each attempt resolves and checks again.
    pub fn vet(&self, webhook: &Webhook) -> Result<(), VetError> {
        let Webhook { destination, access, .. } = webhook;
        let policy = self.policy();
        let target = access.target(destination);
        let refused = |field| move |error| VetError { field, error };
        policy.check_scheme(destination).map_err(refused("url"))?;
        let delegates = target.proxy().is_some_and(|proxy| proxy.resolves);
        self.vet_target(target).map_err(refused(if delegates { "proxy" } else { "url" }))?;
        if let Some(proxy) = target.proxy() {
            policy.check_destination(&proxy.address).map_err(refused("proxy"))?;
        }
        if let Some(endpoint) = access.token_endpoint() {
            policy.check_scheme(endpoint).map_err(refused("auth"))?;
            self.vet_target(access.target(endpoint)).map_err(refused("auth"))?;
        }
        Ok(())
    }

    fn vet_target(&self, target: Target<'_>) -> Result<(), DestinationError> {
        let policy = self.policy();
        match self.via(target).filter(|via| via.proxy.resolves) {
            Some(via) => policy.check_delegated(target.destination, via.is_own),
            None => policy.check_destination(target.destination),
        }
    }
}
