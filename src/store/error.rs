//! Why a store does not open, and why it does not do what it is asked.

/// The reason why a call of the store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or the quota is full; nothing of this call was stored.
    #[error("the store is full: {0}")]
    Full(String),
    /// The store cannot be reached or written now; nothing of this call was stored.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    #[error("not found")]
    NotFound,
    #[error("the name is taken")]
    NameTaken,
    /// The tenant has sent the id of an event, counted from 0, with another topic, type or payload. Nothing was stored.
    #[error("the id was sent before, with another topic, type or payload")]
    IdTaken { index: usize },
    /// The idempotency key was used with another body.
    #[error("the idempotency key was used with another body")]
    IdempotencyConflict,
    /// The tenant's quota.
    #[error("the tenant may have {max} webhooks and has them: delete one, or have an operator raise `max_webhooks`")]
    TooManyWebhooks { max: u32 },
    /// The tenant's quota.
    #[error("the tenant may have {max} tokens and has them; revoke one, or let an operator raise `max_tokens`")]
    TooManyTokens { max: u32 },
    /// The limit of [`MAX_TENANT_INLETS`](super::MAX_TENANT_INLETS).
    #[error("the tenant may have {max} inlets and has them: delete one")]
    TooManyInlets { max: u32 },
    /// The limit of [`MAX_TENANT_SETTINGS_BYTES`](super::MAX_TENANT_SETTINGS_BYTES).
    #[error("the settings of the tenant's webhooks would take {bytes} bytes together, the limit is {max}")]
    TooManySettings { bytes: u64, max: u64 },
    /// The record was changed since the caller read it.
    #[error("the record was changed meanwhile: read it again")]
    Stale,
    /// The state does not allow the change; the text says why.
    #[error("{0}")]
    Conflict(String),
    #[error("the cursor is not one that this server gave out")]
    Cursor,
    /// Stored data is damaged.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
}

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {reason}")]
    Path { path: String, reason: String },
    #[error("{path} is in use by another process")]
    InUse { path: String },
    #[error("{path} is corrupt: {reason}; restore a backup")]
    Corrupt { path: String, reason: String },
    #[error("{path} has schema version {found}, this program knows up to {known}: use the newer program")]
    NewerSchema { path: String, found: i64, known: i64 },
    #[error("the master key is not the one that the secrets in {path} were sealed with")]
    WrongMasterKey { path: String },
    /// The database server cannot be reached, or a statement failed.
    #[error("{database}: {reason}")]
    Database { database: String, reason: String },
    /// The store needs a session for its settings, prepared statements, advisory locks and `LISTEN`.
    #[error(
        "{database} is reached through a pooler in transaction mode, where a connection has no session of its own: set \
         the pooler to session mode (in PgBouncer `pool_mode = session`), or go around it"
    )]
    SharedSessions { database: String },
    #[error("{database} is PostgreSQL {found}, which is older than {needed}")]
    OldPostgres { database: String, found: String, needed: u32 },
    #[error(
        "{database} runs with {setting}=off, so that a crash of its machine can lose or damage what it has committed: \
         turn it on, or allow it where nothing is lost by that"
    )]
    UnsafeServer { database: String, setting: &'static str },
    /// A move from an embedded store is not finished.
    #[error(
        "{database} is being filled by `postrider migrate-store`, which has not finished: run it again with the same \
         data folder, or begin anew with an empty database"
    )]
    UnfinishedTransfer { database: String },
    #[error("SQLite {found} is older than {needed}, which fixed a corruption of the write-ahead log")]
    OldSqlite { found: String, needed: String },
}
