//! The install key that `proxy.reply_key` names.

use zeroize::Zeroizing;

use crate::config::Config;
use crate::config::error::{ConfigErrors, Fault, Mismatch};
use crate::config::proxy::ReplySignature;
use crate::protocol::key::AppPrivateKey;

/// Reads the key; `None` where replies keep Alipay's signature. Blocks.
///
/// # Errors
/// What can't be read or isn't a key, by its place in the configuration.
pub(crate) fn read(config: &Config) -> Result<Option<AppPrivateKey>, ConfigErrors> {
    let proxy = &config.proxy;
    if proxy.reply_signature != ReplySignature::Local {
        return Ok(None);
    }
    let fault = |found: String| {
        let hint = "`alipay-sidecar init` makes one, `keys/reply_private_key.pem`";
        let mismatch = Mismatch::new(found, "the install's RSA private key, PEM").hint(hint);
        ConfigErrors::new(vec![Fault::of_key("proxy.reply_key", mismatch)])
    };
    let path = proxy.reply_key.as_deref();
    let path = path.ok_or_else(|| fault("nothing".to_owned()))?;
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| fault(format!("an unreadable file ({error})")))?;
    let key = AppPrivateKey::from_text(&text);
    key.map(Some)
        .map_err(|error| fault(format!("an unusable file ({error})")))
}
