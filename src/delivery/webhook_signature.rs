//! The signature of Standard Webhooks, by which a backend knows that a delivery is ours.
//!
//! Specification: Standard Webhooks 1.0, “Signature scheme”, symmetric `v1`.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::delivery::webhook_key;
use crate::protocol::secret::Secret;

/// Signs deliveries with `delivery.signing_secret`.
pub(super) struct WebhookSigner(hmac::Key);

impl WebhookSigner {
    /// Takes the secret: `whsec_` and base64, or else any text, whose bytes are the key.
    pub(super) fn new(secret: &Secret<String>) -> Self {
        // A configuration that was read has a good one; a host's own may have any text.
        let text = || Secret::new(secret.expose().as_bytes().to_vec());
        let key = webhook_key(secret).unwrap_or_else(text);
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose()))
    }

    /// The `webhook-signature` of a delivery; `timestamp` is Unix seconds.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

impl std::fmt::Debug for WebhookSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSigner")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(secret: &str) -> String {
        WebhookSigner::new(&Secret::new(secret.to_owned())).sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        )
    }

    #[test]
    fn the_published_example_comes_out() {
        assert_eq!(
            sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn a_plain_secret_is_taken_as_its_bytes() {
        assert_ne!(sign("secret"), sign("whsec_secret"));
        assert_eq!(sign("whsec_c2VjcmV0"), sign("secret"));
        assert_eq!(sign("whsec_c2VjcmV0MQ"), sign("whsec_c2VjcmV0MQ=="));
    }
}
