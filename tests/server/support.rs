//! What tests share: servers, receivers, databases and disks of their own.

#[cfg(any(feature = "nats", feature = "rabbitmq", feature = "redis"))]
pub(crate) mod certificates;
pub(crate) mod engine;
pub(crate) mod image;
#[cfg(feature = "nats")]
pub(crate) mod nats_server;
pub(crate) mod ordered;
pub(crate) mod pooler;
pub(crate) mod postgres_server;
pub(crate) mod program;
#[cfg(feature = "rabbitmq")]
pub(crate) mod rabbitmq_server;
pub(crate) mod receiver;
#[cfg(feature = "redis")]
pub(crate) mod redis_server;
pub(crate) mod server;
pub(crate) mod started;
