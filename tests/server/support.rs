//! What tests share: servers, receivers, databases and disks of their own.

pub(crate) mod engine;
pub(crate) mod image;
pub(crate) mod ordered;
pub(crate) mod pooler;
pub(crate) mod postgres_server;
pub(crate) mod program;
pub(crate) mod receiver;
pub(crate) mod server;
