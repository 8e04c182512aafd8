//! `alipay.service.check`: a life account (生活号) asks who stands behind its gateway.
//!
//! Protocol: 生活号, “开发者网关验证”; vectors `service-check-reply-*`. The reply is ASCII, so its
//! bytes are the same in every charset of the protocol.

use http::StatusCode;

use crate::gateway::signer::SignError;
use crate::protocol::charset::Charset;
use crate::protocol::params::name;
use crate::webhook::answer::{self, Answer};
use crate::webhook::app_gateway::Verified;

/// The signed reply: our own public key, in the charset that was asked in.
pub(super) async fn reply(verified: &Verified) -> Result<Answer, SignError> {
    let app = &verified.app;
    let inner = signed_inner(&app.keys.private.public_key().to_bare_base64());
    let sign = app.signer.sign(inner.clone().into_bytes()).await?;
    let charset = verified.notification.params().get(name::CHARSET);
    let (label, content_type) = if charset.is_some_and(is_gbk) {
        ("GBK", "text/xml; charset=GBK")
    } else {
        ("UTF-8", "text/xml; charset=UTF-8")
    };
    let xml = envelope(label, &inner, &sign, app.sign_type.as_str());
    Ok(answer::of(StatusCode::OK, content_type, xml))
}

fn is_gbk(label: &str) -> bool {
    Charset::from_label(label) == Ok(Charset::Gbk)
}

fn signed_inner(public_key: &str) -> String {
    format!("<success>true</success><biz_content>{public_key}</biz_content>")
}

fn envelope(charset: &str, inner: &str, sign: &str, sign_type: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"{charset}\"?><alipay><response>{inner}</response>\
         <sign>{sign}</sign><sign_type>{sign_type}</sign_type></alipay>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_has_the_shape_of_alipays_own_sdk() {
        assert_eq!(
            envelope("GBK", &signed_inner("KEY"), "SIGN", "RSA2"),
            "<?xml version=\"1.0\" encoding=\"GBK\"?><alipay><response><success>true</success>\
             <biz_content>KEY</biz_content></response><sign>SIGN</sign>\
             <sign_type>RSA2</sign_type></alipay>"
        );
    }
}
