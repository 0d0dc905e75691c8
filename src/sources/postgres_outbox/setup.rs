//! What an outbox needs in its database, as SQL.

use super::{After, Outbox};

impl Outbox {
    /// The statements that make the table, the function `publish`, and the rights that are needed: of the role
    /// `application`, which publishes, and of `reader`, as which Postrider connects.
    #[must_use]
    pub fn setup(&self, application: &str, reader: &str) -> String {
        let Self { table, after } = self;
        let (schema, channel) = (table.schema(), table.channel());
        let (application, reader) = (role(application), role(reader));
        let (mark, index, right) = match after {
            After::Delete => ("", String::new(), "DELETE"),
            After::Mark => (
                ",\n    published_at timestamptz",
                format!("\nCREATE INDEX IF NOT EXISTS outbox_open ON {table} (seq) WHERE published_at IS NULL;\n"),
                "UPDATE (published_at)",
            ),
        };
        format!(
            "-- The outbox: an event is published if, and only if, the transaction that adds its row commits.
-- Both roles must be there; PostgreSQL 14 or newer.
BEGIN;

CREATE SCHEMA IF NOT EXISTS {schema};

CREATE TABLE IF NOT EXISTS {table} (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    topic text NOT NULL,
    type text NOT NULL DEFAULT '',
    payload json NOT NULL DEFAULT '{{}}',
    created_at timestamptz NOT NULL DEFAULT now(){mark}
);
{index}
-- Wakes Postrider. Without it events wait for the next poll.
CREATE OR REPLACE FUNCTION {schema}.wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('{channel}', '');
    RETURN NULL;
END;
$$;

CREATE OR REPLACE TRIGGER wake AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {schema}.wake();

-- Publishes an event in the transaction of the caller, who needs no other right. Returns the event's id.
CREATE OR REPLACE FUNCTION {schema}.publish(topic text, payload jsonb, type text DEFAULT '', id text DEFAULT NULL)
RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO {table} (topic, payload, type, id)
    VALUES (publish.topic, publish.payload::json, publish.type, coalesce(publish.id, gen_random_uuid()::text))
    RETURNING id;
$$;

REVOKE ALL ON FUNCTION {schema}.publish FROM PUBLIC;

-- The application.
GRANT USAGE ON SCHEMA {schema} TO {application};
GRANT EXECUTE ON FUNCTION {schema}.publish TO {application};

-- Postrider.
GRANT USAGE ON SCHEMA {schema} TO {reader};
GRANT SELECT, {right} ON {table} TO {reader};

COMMIT;
"
        )
    }
}

/// A role as an SQL identifier.
fn role(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
