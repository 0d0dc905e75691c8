//! `/nodes`: the servers that share the store, and which webhooks each of them delivers to. For operators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::Operator;
use super::input::{Id, NoInput, Params};
use super::problem::Problem;
use super::views::Time;
use crate::store::cluster::NodeRecord;

/// A server. After a restart it is another one.
#[derive(Serialize, ToSchema)]
pub(super) struct Node {
    uuid: Uuid,
    name: String,
    /// Where it listens.
    address: String,
    version: String,
    started_at: Time,
    state: Condition,
    /// Seconds since it last said that it is alive.
    silent_s: f64,
    /// The shards that it owns, of 256: it delivers to the webhooks in them.
    shards: Vec<u8>,
    /// It gives this answer.
    is_this: bool,
}

/// How a server is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = NodeState)]
enum Condition {
    Alive,
    /// It gives its shards to the others, and takes none.
    Draining,
    /// It has not said for so long that it is alive that others take its shards over.
    Silent,
}

impl Node {
    fn of(record: NodeRecord, app: &App) -> Self {
        let state = match record {
            NodeRecord { is_alive: false, .. } => Condition::Silent,
            NodeRecord { is_draining: true, .. } => Condition::Draining,
            _ => Condition::Alive,
        };
        Self {
            is_this: record.node.uuid == app.engine.node(),
            uuid: record.node.uuid,
            name: record.node.name,
            address: record.node.address,
            version: record.node.version,
            started_at: Time(record.node.started_at),
            state,
            silent_s: record.silent_for.as_secs_f64(),
            shards: record.shards.iter().map(|shard| shard.number()).collect(),
        }
    }
}

/// List the servers that share the store
///
/// A bare array, oldest first. Those that died are there for a day. With the embedded store there is one.
#[utoipa::path(get, path = "/nodes", tag = "nodes", responses((status = 200, body = [Node])))]
pub(super) async fn list(State(app): State<Arc<App>>, _: Operator, params: Params) -> Result<Json<Vec<Node>>, Problem> {
    params.finish()?;
    let nodes = app.engine.nodes().await?;
    Ok(Json(nodes.into_iter().map(|record| Node::of(record, &app)).collect()))
}

/// Let a server give its shards to the others
///
/// What it has under way it ends first; what it is sent it still accepts. It takes no shards until `resume`.
#[utoipa::path(post, path = "/nodes/{uuid}/drain", tag = "nodes",
    params(("uuid" = Uuid, Path, description = "The server's UUID.")), responses(
    (status = 200, body = Node, description = "It is asked to; its `shards` become fewer until it has none."),
    (status = 404, description = "There is no such server."),
    (status = 409, description = "It is silent, or the only one: its store is embedded."),
))]
pub(super) async fn drain(
    State(app): State<Arc<App>>,
    Operator(act): Operator,
    Id(uuid): Id<Uuid>,
    _: NoInput,
) -> Result<Json<Node>, Problem> {
    Ok(Json(Node::of(app.engine.drain_node(act, uuid, true).await?, &app)))
}

/// Let a server take shards again
#[utoipa::path(post, path = "/nodes/{uuid}/resume", tag = "nodes",
    params(("uuid" = Uuid, Path, description = "The server's UUID.")), responses(
    (status = 200, body = Node),
    (status = 404, description = "There is no such server."),
    (status = 409, description = "It is silent, or the only one: its store is embedded."),
))]
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    Operator(act): Operator,
    Id(uuid): Id<Uuid>,
    _: NoInput,
) -> Result<Json<Node>, Problem> {
    Ok(Json(Node::of(app.engine.drain_node(act, uuid, false).await?, &app)))
}
