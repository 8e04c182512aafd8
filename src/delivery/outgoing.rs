//! In which form an entry goes out.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::config::delivery::DeliveryFormat;
use crate::delivery::redaction;
use crate::model::event;
use crate::model::notification::{Body, DeliveryForm, InboxEntry};
use crate::protocol::notification;
use crate::protocol::params::{Params, name};

/// What is posted.
pub(super) struct Outgoing {
    pub(super) content_type: String,
    pub(super) body: Bytes,
    /// Whether it is JSON of ours or Alipay's own form.
    pub(super) format: DeliveryFormat,
    /// In which format's way it is answered: a notification that is JSON only because of its tokens goes
    /// to a handler that answers as Alipay is answered.
    pub(super) answered: DeliveryFormat,
}

/// Lays `entry` out for a backend that is configured for `format`.
pub(super) fn lay_out(entry: &InboxEntry, format: DeliveryFormat) -> Outgoing {
    match (entry.form, format, &entry.body) {
        (DeliveryForm::Event, _, _) => json(&entry.event),
        (DeliveryForm::AsConfigured, DeliveryFormat::Form, Some(body))
        | (DeliveryForm::Verbatim, _, Some(body)) => Outgoing {
            content_type: body.content_type.clone(),
            body: body.bytes.clone(),
            format: DeliveryFormat::Form,
            answered: DeliveryFormat::Form,
        },
        (DeliveryForm::Redacted, ..) => Outgoing {
            // Replayed, what was ignored goes out so, too, under the type of an event of ours.
            answered: match event::is_own(&entry.event_type) {
                true => DeliveryFormat::Json,
                false => format,
            },
            ..json(&json_form(entry, &redaction::redacted(&params(entry))))
        },
        _ => json(&json_form(entry, &params(entry))),
    }
}

/// The JSON form of contract §5.
#[derive(Serialize)]
struct JsonForm<'a> {
    id: String,
    r#type: &'a str,
    app_id: &'a str,
    auth_app_id: Option<&'a str>,
    pid: Option<&'a str>,
    received_at: i64,
    #[serde(serialize_with = "in_order")]
    params: Vec<(&'a str, Value<'a>)>,
}

/// A parameter's value: text, or the JSON that `biz_content` is, with every digit as it came.
#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

fn json_form<'a>(entry: &'a InboxEntry, params: &'a Params) -> JsonForm<'a> {
    JsonForm {
        id: entry.id.to_string(),
        r#type: &entry.event_type,
        app_id: entry.app_id.as_str(),
        auth_app_id: entry.auth_app_id.as_ref().map(|id| id.as_str()),
        pid: entry.pid.as_ref().map(|pid| pid.as_str()),
        received_at: entry.received_at,
        params: params
            .iter()
            .map(|(name, text)| (name, value(name, text)))
            .collect(),
    }
}

fn value<'a>(name: &str, text: &'a str) -> Value<'a> {
    let json = (name == name::BIZ_CONTENT)
        .then(|| serde_json::from_str::<&RawValue>(text).ok())
        .flatten();
    json.map_or(Value::Text(text), Value::Json)
}

fn in_order<S: serde::Serializer>(
    params: &[(&str, Value<'_>)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(params.iter().map(|(name, value)| (name, value)))
}

fn json(value: &impl Serialize) -> Outgoing {
    let body = serde_json::to_vec(value).expect("maps with text keys can't fail to serialise");
    Outgoing {
        content_type: "application/json".to_owned(),
        body: body.into(),
        format: DeliveryFormat::Json,
        answered: DeliveryFormat::Json,
    }
}

/// The parameters of an entry, decrypted; its body was verified, hence decoded, before it was stored.
fn params(entry: &InboxEntry) -> Params {
    let mut params = entry.body.as_ref().map(read).unwrap_or_default();
    if let Some(content) = &entry.opened_content {
        params.set(name::BIZ_CONTENT, content.expose().as_str());
    }
    params
}

fn read(body: &Body) -> Params {
    notification::charset(Some(&body.content_type), &body.bytes)
        .and_then(|charset| Params::from_form(&body.bytes, charset))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{AppId, AuthAppId, EventId};

    fn entry(form: DeliveryForm, body: &'static str) -> InboxEntry {
        InboxEntry {
            id: EventId::from_bytes([7; 16]),
            app_id: AppId::new("2021").expect("id"),
            notify_id: None,
            event_type: "trade_status_sync".to_owned(),
            auth_app_id: AuthAppId::new("2031").ok(),
            pid: None,
            received_at: 1_700_000_000_000,
            notify_path: String::new(),
            notify_query: String::new(),
            order_key: None,
            opened_content: None,
            scheme: None,
            body: Some(Body {
                content_type: "application/x-www-form-urlencoded; charset=utf-8".to_owned(),
                bytes: Bytes::from_static(body.as_bytes()),
            }),
            event: None,
            form,
        }
    }

    #[test]
    fn events_of_ours_are_answered_as_json_in_whatever_form_they_go_out() {
        use DeliveryFormat::{Form, Json};
        for (event_type, format, answered) in [
            ("open_app_auth_notify", Form, Form),
            ("open_app_auth_notify", Json, Json),
            // An ignored one that is replayed.
            (event::MERCHANT_AUTHORIZED, Form, Json),
            (event::MERCHANT_REVOKED, Form, Json),
            (event::MERCHANT_REVOKED, Json, Json),
        ] {
            let mut entry = entry(DeliveryForm::Redacted, "a=1");
            entry.event_type = event_type.to_owned();
            let outgoing = lay_out(&entry, format);
            assert_eq!(
                (outgoing.format, outgoing.answered),
                (Json, answered),
                "{event_type}"
            );
        }
    }

    fn check(form: DeliveryForm, format: DeliveryFormat, body: &'static str, expected: &str) {
        let sent = lay_out(&entry(form, body), format);
        assert_eq!(String::from_utf8_lossy(&sent.body), expected);
    }

    #[test]
    fn a_form_goes_out_byte_for_byte() {
        let body = "b=2&a=%e4%b8%ad+x&sign=%2B";
        check(DeliveryForm::AsConfigured, DeliveryFormat::Form, body, body);
        check(DeliveryForm::Verbatim, DeliveryFormat::Json, body, body);
    }

    const HEAD: &str = r#"{"id":"07070707-0707-0707-0707-070707070707","type":"trade_status_sync","app_id":"2021","auth_app_id":"2031","pid":null,"received_at":1700000000000,"params":"#;

    #[test]
    fn the_json_form_parses_biz_content_and_keeps_its_digits() {
        check(
            DeliveryForm::AsConfigured,
            DeliveryFormat::Json,
            "b=2&biz_content=%7B%22amount%22%3A100.00%7D&a=%e4%b8%ad",
            &format!(r#"{HEAD}{{"b":"2","biz_content":{{"amount":100.00}},"a":"中"}}}}"#),
        );
        check(
            DeliveryForm::AsConfigured,
            DeliveryFormat::Json,
            "biz_content=%7Bno+json",
            &format!(r#"{HEAD}{{"biz_content":"{{no json"}}}}"#),
        );
    }

    #[test]
    fn a_gbk_form_is_read_as_gbk() {
        check(
            DeliveryForm::AsConfigured,
            DeliveryFormat::Json,
            "a=%D6%D0%A2%E3&charset=GBK",
            &format!(r#"{HEAD}{{"a":"中€","charset":"GBK"}}}}"#),
        );
    }

    #[test]
    fn a_redacted_entry_is_json_without_tokens_whatever_is_configured() {
        check(
            DeliveryForm::Redacted,
            DeliveryFormat::Form,
            "app_auth_code=c&a=1&biz_content=%7B%22x%22%3A%7B%22app_auth_token%22%3A%22t%22%7D%7D",
            &format!(r#"{HEAD}{{"a":"1","biz_content":{{"x":{{}}}}}}}}"#),
        );
    }
}
