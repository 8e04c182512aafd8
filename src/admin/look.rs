//! What only shows by asking: whether Alipay knows an app and takes its key, and whether what is
//! sent to the public address comes in as it was sent. Nothing is changed by it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::AdminParts;
use crate::admin::error::AdminError;
use crate::admin::page::Page;
use crate::model::id::AppId;
use crate::token::{AskError, Greeting};
use crate::webhook::own_address::OwnAddressView;

/// An app as Alipay sees it.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct AppLook {
    /// Our application.
    pub app_id: String,
    /// `good`; `refused`: Alipay doesn't take what the app signs; `failed`: there was no verified
    /// answer.
    pub verdict: String,
    /// Alipay's `sub_code`, or the sidecar's own code of what failed.
    pub error: Option<String>,
    /// What is wrong, and what to do.
    pub detail: Option<String>,
    /// How far this machine's clock is ahead of Alipay's, seconds.
    pub clock_ahead_s: Option<i64>,
    /// How long the call took, milliseconds.
    pub took_ms: Option<u64>,
}

/// Asks Alipay something harmless as `app_id`.
///
/// # Errors
/// [`AdminError`] where no such app can sign.
pub async fn at_app(parts: &AdminParts, app_id: &AppId) -> Result<AppLook, AdminError> {
    match parts.tokens.greet(app_id).await {
        Ok(greeting) => Ok(answered(app_id, &greeting)),
        Err(unknown @ AskError::AppUnknown { .. }) => Err(unknown.into()),
        Err(error) => Ok(AppLook {
            app_id: app_id.to_string(),
            verdict: "failed".to_owned(),
            error: Some(error.kind().to_owned()),
            detail: Some(why(&error)),
            clock_ahead_s: None,
            took_ms: None,
        }),
    }
}

/// The public address as it looks from here; empty where there is none.
pub async fn at_own_address(parts: &AdminParts) -> Page<OwnAddressView> {
    let looked = parts.webhook.look_at_own_address(&parts.client).await;
    Page {
        items: looked.unwrap_or_default(),
        next: None,
    }
}

fn answered(app_id: &AppId, greeting: &Greeting) -> AppLook {
    let hint = hint(greeting);
    let said = [&greeting.sub_code, &greeting.code];
    let said = said.into_iter().find(|word| !word.is_empty());
    AppLook {
        app_id: app_id.to_string(),
        verdict: if hint.is_some() { "refused" } else { "good" }.to_owned(),
        error: hint.and(said).cloned(),
        detail: hint.map(str::to_owned),
        clock_ahead_s: greeting.ahead_s,
        took_ms: u64::try_from(greeting.took.as_millis()).ok(),
    }
}

/// What to do about an answer that says that the app isn't taken. That Alipay doesn't know the token
/// that was asked about is what was to be expected.
fn hint(greeting: &Greeting) -> Option<&'static str> {
    let code = greeting.sub_code.as_str();
    Some(match code {
        "isv.invalid-signature" => {
            "the console has another 应用公钥 than that of private_key; upload the one that `alipay-sidecar \
             app show` prints, or set the key that belongs to it"
        }
        "isv.app-cert-not-exist" | "isv.invalid-app-cert-sn" => {
            "Alipay doesn't know app_cert; download it again from the console"
        }
        "isv.missing-signature-key" | "isv.missing-signature-config" => {
            "the console has no 应用公钥 for this app; upload one (接口加签方式)"
        }
        "isv.invalid-app-id" => {
            "Alipay knows no such app here; compare app_id, and `environment`: sandbox apps live elsewhere"
        }
        "isv.invalid-timestamp" => "set this machine's clock",
        _ if code.contains("signature") => {
            "Alipay doesn't take the signature; compare the keys with the console"
        }
        _ if !greeting.is_signed => {
            "Alipay answered without a signature, as it does for apps it can't identify; compare app_id and keys"
        }
        _ => return None,
    })
}

/// The error with what lies beneath it: "no connection could be made" alone helps nobody.
fn why(error: &AskError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let told = cause.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn greeting(sub_code: &str, is_signed: bool) -> Greeting {
        Greeting {
            is_signed,
            code: "40004".to_owned(),
            sub_code: sub_code.to_owned(),
            ahead_s: Some(0),
            took: Duration::from_millis(1),
        }
    }

    #[test]
    fn that_the_token_is_nobodys_is_the_good_answer() {
        for sub_code in [
            "isv.invalid-app-auth-token",
            "aop.invalid-app-auth-token",
            "isv.insufficient-isv-permissions",
        ] {
            assert_eq!(hint(&greeting(sub_code, true)), None, "{sub_code}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_app_has_a_hint() {
        for (sub_code, is_signed, part) in [
            ("isv.invalid-signature", true, "应用公钥"),
            ("isv.app-cert-not-exist", true, "app_cert"),
            ("isv.invalid-app-id", false, "sandbox"),
            ("isv.invalid-timestamp", true, "clock"),
            ("isv.some-other", false, "without a signature"),
        ] {
            let hint = hint(&greeting(sub_code, is_signed)).expect("a hint");
            assert!(hint.contains(part), "{sub_code}: {hint}");
        }
    }
}
