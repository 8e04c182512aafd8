//! The methods the simulator knows, and in whose name each is called.
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    authorization, ids, invitation, merchant_keys, messages,
    node::{Node, Refusal},
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
        "alipay.open.app.alipaycert.download"
        | "alipay.open.auth.app.aes.get"
        | "alipay.open.auth.app.aes.set"
        | "alipay.open.auth.token.app"
        | "alipay.open.auth.token.app.query" => Some(Identity::Platform),
        "alipay.system.oauth.token"
        | "alipay.open.app.message.topic.subscribe"
        | "alipay.open.auth.appauth.invite.create" => Some(Identity::Either),
        "alipay.offline.material.image.upload"
        | "alipay.open.file.upload"
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

/// Tells whether a method's success goes out without `sign`.
///
/// Protocol: 支付宝公钥证书下载; what is downloaded is checked through its chain instead.
pub(super) fn is_unsigned(method: &str) -> bool {
    method == DOWNLOAD
}

/// Executes a verified call and gives its node's text.
pub(super) fn execute(world: &mut World, call: &Call) -> Result<String, Refusal> {
    match world.answers.get(&call.method) {
        Some(text) => Ok(text.clone()),
        None => run(world, call).map(|node| node.text()),
    }
}

/// Executes a verified call of a method that the simulator knows itself.
pub(super) fn run(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    match call.method.as_str() {
        DOWNLOAD => download(world, call),
        "alipay.open.auth.app.aes.get" => merchant_keys::get(world, call),
        "alipay.open.auth.app.aes.set" => merchant_keys::set(world, call),
        "alipay.open.auth.token.app" => authorization::token_app(world, call),
        "alipay.open.auth.token.app.query" => authorization::token_app_query(world, call),
        "alipay.open.auth.appauth.invite.create" => invitation::create(world, call),
        "alipay.open.app.message.topic.subscribe" => messages::subscribe(world, call),
        "alipay.offline.material.image.upload" => upload(call, ("image_id", "image_url")),
        "alipay.open.file.upload" => upload(call, ("file_id", "file_url")),
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
        _ => Err(Refusal::unknown_method()),
    }
}

fn upload(call: &Call, (id, url): (&str, &str)) -> Result<Node, Refusal> {
    if call.files.is_empty() {
        return Err(Refusal::parameter("文件内容不能为空"));
    }
    let at = "https://oalipay-dl-django.alicdn.com/rest/1.0/image";
    Ok(Node::success().with(id, ids::code()).with(url, at))
}

/// Gives a platform certificate, present or past, with its chain.
fn download(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let sn = call.required("alipay_cert_sn")?;
    let certificates = world.platform.certificates().map_err(Refusal::broken)?;
    let pem = certificates
        .download(&sn)
        .ok_or_else(|| Refusal::business("CERT_NOT_EXIST", "支付宝公钥证书不存在"))?;
    let content = STANDARD.encode(pem);
    Ok(Node::success().with("alipay_cert_content", content))
}

const DOWNLOAD: &str = "alipay.open.app.alipaycert.download";
