//! A resolver of our own, with the feature `dns`.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;

use super::resolver::Resolve;

/// The longest time for which a missing name is cached, so that a corrected zone is seen soon.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);

/// A built-in resolver. It queries the name servers of the system's configuration for IPv4 and IPv6 in parallel, reads
/// the hosts file, and caches answers for their TTL. A slow zone delays no other names.
pub struct HickoryResolver(TokioResolver);

impl HickoryResolver {
    /// Reads the system's configuration; the error is for people.
    pub fn from_system() -> Result<Self, String> {
        let mut builder = TokioResolver::builder_tokio().map_err(|error| error.to_string())?;
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
        builder.build().map(Self).map_err(|error| error.to_string())
    }
}

#[async_trait::async_trait]
impl Resolve for HickoryResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        match self.0.lookup_ip(host).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_nx_domain() => Err(format!("{host} does not exist")),
            Err(error) if error.is_no_records_found() => Err(format!("{host} has no address")),
            Err(error) => Err(error.to_string()),
        }
    }
}
