//! The protocol core alone: signs a request and verifies a reply, without a runtime or a socket.
//!
//! Nothing in [`alipay_sidecar::protocol`] does I/O or looks at a clock, so it fits into programs
//! that bring their own HTTP client. Run it with `cargo run --example sign_only`.

use std::io::Write;

use alipay_sidecar::protocol::envelope::Envelope;
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::params::{Params, name};
use alipay_sidecar::protocol::request::SignedParams;
use alipay_sidecar::protocol::sign_content;
use alipay_sidecar::protocol::signature::SignType;

const METHOD: &str = "alipay.trade.query";

fn main() -> anyhow::Result<()> {
    // A program reads its keys with `from_text`, in whatever form Alipay's tools wrote them, and
    // keeps them parsed: parsing one costs half a signature.
    let app_key = AppPrivateKey::generate(2048)?;
    let alipay_key = AppPrivateKey::generate(2048)?;
    let mut out = std::io::stdout().lock();

    // The request. The sign content is a string of its own, so that it can be logged and compared
    // when Alipay says `isv.invalid-signature`.
    let params = params()?;
    let content = sign_content::v2_request(&params);
    let sign = app_key.sign(SignType::Rsa2, content.as_bytes())?;
    let signed = SignedParams::new(params, sign.clone());
    writeln!(out, "signed: {content}")?;
    writeln!(out, "POST /gateway.do?{}", signed.query())?;
    writeln!(out, "{}", signed.body())?;

    // What Alipay does with it: checks the signature with the app's public key.
    app_key
        .public_key()
        .verify(SignType::Rsa2, content.as_bytes(), &sign)?;

    // The reply. Only `verify` gives its content away, and it checks the very bytes that came.
    let body = reply(&alipay_key)?;
    let keys = [alipay_key.public_key().clone()];
    let verified = Envelope::parse(body.into(), METHOD)?.verify(&keys, SignType::Rsa2)?;
    let node = verified.node();
    writeln!(out, "verified: {}", String::from_utf8_lossy(&node))?;
    Ok(())
}

fn params() -> anyhow::Result<Params> {
    let mut params = Params::new();
    params.push(name::APP_ID, "2021000000000001")?;
    params.push(name::METHOD, METHOD)?;
    params.push(name::CHARSET, "utf-8")?;
    params.push(name::SIGN_TYPE, SignType::Rsa2.as_str())?;
    // Time is an argument here; `protocol::timestamp` writes it from milliseconds.
    params.push(name::TIMESTAMP, "2026-11-22 18:00:00")?;
    params.push(name::VERSION, "1.0")?;
    params.push(name::BIZ_CONTENT, r#"{"out_trade_no":"42"}"#)?;
    Ok(params)
}

/// A reply as Alipay would sign it: over the bytes of the node, as they stand.
fn reply(alipay_key: &AppPrivateKey) -> anyhow::Result<String> {
    let node = r#"{"code":"10000","msg":"Success","trade_status":"TRADE_SUCCESS"}"#;
    let sign = alipay_key.sign(SignType::Rsa2, node.as_bytes())?;
    Ok(format!(
        r#"{{"alipay_trade_query_response":{node},"sign":"{sign}"}}"#
    ))
}
