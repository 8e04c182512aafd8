//! `alipay.service.check`: a life account (生活号) asks who stands behind its gateway.

use http::StatusCode;

use crate::gateway::signer::SignError;
use crate::protocol::charset::Charset;
use crate::protocol::params::name;
use crate::protocol::signed_answer::XmlAnswer;
use crate::webhook::answer::{self, Answer};
use crate::webhook::app_gateway::Verified;

/// The signed reply: our own public key, in the charset that was asked in.
pub(super) async fn reply(verified: &Verified) -> Result<Answer, SignError> {
    let app = &verified.app;
    let charset = verified.notification.params().get(name::CHARSET);
    let charset = charset.and_then(|label| Charset::from_label(label).ok());
    // Held, so that the key it names is the one that signs, whichever takes over meanwhile.
    let key = app.signing.in_force();
    let xml = XmlAnswer::service_check(&key.public_key, charset.unwrap_or_default())?;
    let content = xml.sign_content().to_vec();
    let sign = key.sign_answer(app.sign_type, content).await?;
    let body = xml.signed(&sign, app.sign_type);
    Ok(answer::of(StatusCode::OK, &xml.content_type(), body))
}
