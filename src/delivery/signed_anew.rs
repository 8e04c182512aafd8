//! Forms under the signature of the install key (`proxy.reply_signature = "local"`): a handler
//! written for Alipay verifies them with the same key as replies.

use crate::config::delivery::DeliveryFormat;
use crate::delivery::outgoing::Outgoing;
use crate::install_key::{InstallKey, InstallKeyError};
use crate::protocol::error::ProtocolError;
use crate::protocol::sign_content::Scheme;
use crate::protocol::signed_reply::NotificationForm;

/// A form wasn't signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The stored form can't be read, though it was verified once.
    #[error("the notification can't be read: {0}")]
    Form(#[from] ProtocolError),
    /// The install key didn't sign.
    #[error(transparent)]
    Key(#[from] InstallKeyError),
}

/// Replaces the signature of a form by one of the same scheme, and leaves our own JSON, which
/// carries none, as it is.
pub(super) async fn sign(
    key: &InstallKey,
    outgoing: Outgoing,
    scheme: Option<Scheme>,
) -> Result<Outgoing, Error> {
    if outgoing.format != DeliveryFormat::Form {
        return Ok(outgoing);
    }
    let form = NotificationForm::parse(&outgoing.content_type, &outgoing.body, scheme)?;
    let sign = key.sign(form.sign_type(), form.sign_content()?).await?;
    Ok(Outgoing {
        body: form.signed(&sign)?.into(),
        ..outgoing
    })
}
