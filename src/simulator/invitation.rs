//! Invitations: the page on which a merchant that is known authorises again.
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{
    charset::Charset,
    node::{Node, Refusal},
    params,
    world::{Call, World},
};

/// `alipay.open.auth.appauth.invite.create`.
///
/// Protocol: ISV向商户发起应用授权邀约: `state` must be base64. The address is Alipay's; its path and
/// query are the simulator's own page, too.
pub(super) fn create(world: &World, call: &Call) -> Result<Node, Refusal> {
    let auth_app_id = call.required("auth_app_id")?;
    let redirect_url = call.required("redirect_url")?;
    let state = call.biz("state");
    if state
        .as_ref()
        .is_some_and(|state| STANDARD.decode(state).is_err())
    {
        return Err(Refusal::parameter("state必须为base64编码"));
    }
    if !world.merchants.contains_key(&auth_app_id) {
        return Err(Refusal::parameter("auth_app_id不存在"));
    }
    let data = json!({
        "platformCode": "O",
        "taskType": "INTERFACE_AUTH",
        "agentOpParam": {
            "redirectUri": redirect_url,
            "isvAppId": call.caller.app_id,
            "state": state,
        },
    });
    let query = [
        ("bizData".to_owned(), data.to_string()),
        ("simulator_auth_app_id".to_owned(), auth_app_id),
    ];
    let query = params::write_form(&query, Charset::Utf8);
    let page = format!("https://b.alipay.com/page/message/tasksDetail?{query}");
    Ok(Node::success().with("task_page_url", page))
}
