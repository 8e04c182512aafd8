//! Payment notifications, signed beforehand: signing them is Alipay's work.

use std::sync::Mutex;
use std::vec::IntoIter;

use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::signature::SignType;
use anyhow::Context;
use bytes::Bytes;

use crate::world::APP_ID;

/// Notifications that nobody has sent yet.
pub(crate) struct Notifications(Mutex<IntoIter<Bytes>>);

impl Notifications {
    /// `count` of them, on all cores.
    pub(crate) fn prepare(
        alipay: &AppPrivateKey,
        name: &str,
        count: usize,
    ) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism()?.get();
        let parts = std::thread::scope(|scope| {
            let part = |core: usize| {
                let make = move |n: usize| notification(alipay, &format!("{name}-{core}-{n}"));
                scope.spawn(move || (0..count.div_ceil(cores)).map(make).collect())
            };
            let threads: Vec<_> = (0..cores).map(part).collect();
            let joined = threads.into_iter().map(|thread| {
                let part: anyhow::Result<Vec<Bytes>> = thread.join().ok().context("a panic")?;
                part
            });
            joined.collect::<anyhow::Result<Vec<_>>>()
        })?;
        Ok(Self(Mutex::new(parts.concat().into_iter())))
    }

    /// The next one; `None` once all were sent.
    pub(crate) fn next(&self) -> Option<Bytes> {
        self.0.lock().ok().and_then(|mut due| due.next())
    }
}

fn notification(alipay: &AppPrivateKey, name: &str) -> anyhow::Result<Bytes> {
    let fields = fields(name);
    let content: Vec<String> = fields.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let sign = alipay.sign(SignType::Rsa2, content.join("&").as_bytes())?;
    Ok(form(&fields, &sign).into())
}

/// The same row for a base that verifies nothing.
pub(crate) fn unsigned(name: &str) -> String {
    form(&fields(name), &"A".repeat(344))
}

fn form(fields: &[(&str, &str)], sign: &str) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .append_pair("sign_type", "RSA2")
        .append_pair("sign", sign)
        .finish()
}

/// What Alipay tells of a payment, in the order in which it is signed.
fn fields(name: &str) -> Vec<(&'static str, &str)> {
    vec![
        ("app_id", APP_ID),
        ("auth_app_id", "2021000000001001"),
        ("buyer_id", "2088000000002001"),
        ("buyer_pay_amount", "88.88"),
        ("charset", "utf-8"),
        (
            "fund_bill_list",
            r#"[{"amount":"88.88","fundChannel":"ALIPAYACCOUNT"}]"#,
        ),
        ("gmt_create", "2026-11-22 18:00:00"),
        ("gmt_payment", "2026-11-22 18:00:01"),
        ("invoice_amount", "88.88"),
        ("notify_id", name),
        ("notify_time", "2026-11-22 18:00:02"),
        ("notify_type", "trade_status_sync"),
        ("out_trade_no", name),
        ("point_amount", "0.00"),
        ("receipt_amount", "88.88"),
        ("seller_id", "2088000000001001"),
        ("subject", "证大五道口店"),
        ("total_amount", "88.88"),
        ("trade_no", "2026112222001400000000000001"),
        ("trade_status", "TRADE_SUCCESS"),
        ("version", "1.0"),
    ]
}
