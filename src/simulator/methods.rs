//! The methods the simulator knows, and in whose name each is called.
use serde_json::json;

use super::{
    authorization, ids,
    node::{Node, Refusal},
    params::Received,
    trades, users,
    world::{Call, World},
};

/// In whose name a method is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// A business API: a third-party app needs `app_auth_token`.
    Merchant,
    /// The app itself; an `app_auth_token` is none of the judge's business.
    Platform,
    /// Either; the method itself tells the difference.
    Either,
}

/// Gives a method's identity; none for an unknown method.
pub(super) fn identity(method: &str) -> Option<Identity> {
    match method {
        "alipay.open.auth.token.app" | "alipay.open.auth.token.app.query" => {
            Some(Identity::Platform)
        }
        "alipay.system.oauth.token"
        | "alipay.open.app.message.topic.subscribe"
        | "alipay.open.auth.appauth.invite.create" => Some(Identity::Either),
        "alipay.offline.material.image.upload"
        | "alipay.trade.cancel"
        | "alipay.trade.close"
        | "alipay.trade.create"
        | "alipay.trade.fastpay.refund.query"
        | "alipay.trade.pay"
        | "alipay.trade.precreate"
        | "alipay.trade.query"
        | "alipay.trade.refund"
        | "alipay.user.info.share" => Some(Identity::Merchant),
        _ => None,
    }
}

/// Executes a verified call and gives its node's text.
pub(super) fn execute(
    world: &mut World,
    call: &Call,
    received: &Received,
) -> Result<String, Refusal> {
    if let Some(text) = world.answers.get(&call.method) {
        return Ok(text.clone());
    }
    let node = match call.method.as_str() {
        "alipay.open.auth.token.app" => authorization::token_app(world, call),
        "alipay.open.auth.token.app.query" => authorization::token_app_query(world, call),
        "alipay.open.auth.appauth.invite.create" => {
            let page = "https://b.alipay.com/page/message/tasksDetail?bizData=simulated";
            Ok(Node::success().with("task_page_url", page))
        }
        "alipay.open.app.message.topic.subscribe" => {
            call.required("topic").map(|_| Node::success())
        }
        "alipay.offline.material.image.upload" => upload(received),
        "alipay.system.oauth.token" => users::oauth_token(world, call),
        "alipay.trade.cancel" => trades::cancel(world, call),
        "alipay.trade.close" => trades::close(world, call),
        "alipay.trade.create" => trades::create(world, call),
        "alipay.trade.fastpay.refund.query" => trades::refund_query(world, call),
        "alipay.trade.pay" => trades::pay(world, call),
        "alipay.trade.precreate" => trades::precreate(world, call),
        "alipay.trade.query" => trades::query(world, call),
        "alipay.trade.refund" => trades::refund(world, call),
        "alipay.user.info.share" => users::info_share(world, call),
        _ => Err(Refusal::new(
            "40002",
            "isv.invalid-method",
            "不存在的方法名",
        )),
    };
    node.map(|node| node.text())
}

fn upload(received: &Received) -> Result<Node, Refusal> {
    if received.files.is_empty() {
        return Err(Refusal::parameter("image_content不能为空"));
    }
    Ok(Node::success().with("image_id", ids::code()).with(
        "image_url",
        json!("https://oalipay-dl-django.alicdn.com/rest/1.0/image"),
    ))
}
