//! Subscriptions to platform messages: kept and shown. What is sent doesn't depend on them.
use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    node::{Node, Refusal},
    world::{Call, World},
};

/// Who subscribed to what; the same again is the same.
#[derive(Default)]
pub(super) struct Subscriptions(BTreeSet<Subscription>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Subscription {
    app_id: String,
    topic: String,
    comm_type: String,
    /// The merchant application behind `auth_token`; none for the app's own messages.
    auth_app_id: Option<String>,
}

impl Subscriptions {
    /// Describes all for `GET /simulator/state`.
    pub(super) fn state(&self) -> Value {
        self.0.iter().map(|known| json!(known)).collect()
    }
}

/// `alipay.open.app.message.topic.subscribe`.
///
/// Protocol: 订阅消息主题: `auth_type` and `auth_token` go together.
pub(super) fn subscribe(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let comm_type = call.required("comm_type")?;
    if !["HTTP", "WEBSOCKET"].contains(&comm_type.as_str()) {
        return Err(Refusal::parameter(format!(
            "comm_type `{comm_type}` 不支持"
        )));
    }
    let app_id = call.caller.app_id.clone();
    let auth_app_id = match (call.biz("auth_type").as_deref(), call.biz("auth_token")) {
        (None, None) => None,
        (Some("app_auth"), Some(token)) => {
            let grant = world.grants.check(&app_id, &token)?;
            Some(grant.key.auth_app_id.clone())
        }
        _ => return Err(Refusal::parameter("auth_type与auth_token不匹配")),
    };
    let topic = call.required("topic")?;
    world.subscriptions.0.insert(Subscription {
        app_id,
        topic,
        comm_type,
        auth_app_id,
    });
    Ok(Node::success())
}
