//! Notifications as Alipay signs them, made here by the hundred: tests of load must not wait for
//! the simulator to think of each.

use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::simulator::DEFAULT_APP_ID;
use serde_json::json;

use super::isv::{Params, content, form};
use super::keys;

/// Alipay's pen.
#[derive(Clone)]
pub struct Platform {
    key: AppPrivateKey,
}

/// A notification, ready to be posted.
#[derive(Debug, Clone)]
pub struct Signed {
    pub notify_id: String,
    pub body: String,
}

impl Platform {
    /// The platform whose public key `support::app` trusts.
    pub fn new() -> Self {
        let key = AppPrivateKey::from_text(&keys::private("alipay2048")).expect("a key");
        Self { key }
    }

    /// A payment of an order.
    pub fn payment(&self, notify_id: &str, out_trade_no: &str) -> Signed {
        self.sign(
            notify_id,
            &[
                ("notify_type", "trade_status_sync"),
                ("out_trade_no", out_trade_no),
                ("subject", "大乐透 & 茶"),
                ("total_amount", "8.80"),
                ("trade_no", &format!("2026112222001{notify_id}")),
                ("trade_status", "TRADE_SUCCESS"),
            ],
        )
    }

    /// A platform message.
    pub fn message(&self, notify_id: &str) -> Signed {
        let content = json!({"order_id": notify_id, "note": "消息"}).to_string();
        self.sign(
            notify_id,
            &[
                ("msg_method", "alipay.open.mini.version.audit.passed"),
                ("utc_timestamp", "1795335630000"),
                ("biz_content", &content),
            ],
        )
    }

    /// A merchant's authorisation.
    pub fn authorization(&self, notify_id: &str, auth_app_id: &str, auth_time: i64) -> Signed {
        let content = json!({
            "notify_context": {"trigger": "appstore"},
            "detail": {
                "app_id": DEFAULT_APP_ID,
                "auth_app_id": auth_app_id,
                "app_auth_token": format!("token-{notify_id}"),
                "app_refresh_token": format!("refresh-{notify_id}"),
                "auth_time": auth_time,
            },
        });
        self.sign(
            notify_id,
            &[
                ("notify_type", "open_app_auth_notify"),
                ("status", "execute_auth"),
                ("auth_app_id", auth_app_id),
                ("biz_content", &content.to_string()),
            ],
        )
    }

    fn sign(&self, notify_id: &str, said: &[(&str, &str)]) -> Signed {
        let common = [
            ("app_id", DEFAULT_APP_ID),
            ("charset", "UTF-8"),
            ("notify_id", notify_id),
            ("notify_time", "2026-11-22 10:20:30"),
            ("version", "1.0"),
        ];
        let all = common.iter().chain(said);
        let owned = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut params: Params = owned.collect();
        let signed = content(&params, &[]);
        let sign = self.key.sign(SignType::Rsa2, signed.as_bytes());
        params.insert("sign".to_owned(), sign.expect("a good key"));
        params.insert("sign_type".to_owned(), "RSA2".to_owned());
        Signed {
            notify_id: notify_id.to_owned(),
            body: form(&params),
        }
    }
}
