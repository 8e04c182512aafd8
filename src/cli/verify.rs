//! `verify`: does a signature hold, and if not, why not; offline.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::http_text::{self, HttpText, Start};
use crate::cli::input;
use crate::cli::output::{self, Form};
use crate::cli::sign::hex;
use crate::cli::verify_keys::{KeyReferences, unreadable, verifying_keys};
use crate::clock::{Clock, SystemClock};
use crate::model::id::AppId;
use crate::protocol::charset::{self, Charset};
use crate::protocol::diagnosis::{
    self, Cause, Explanation, GatewayVerdict, Keys, V3Message, gateway_difference, visible,
};
use crate::protocol::error::ProtocolError;
use crate::protocol::signature::SignType;

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// What the file holds
    #[arg(long, value_enum)]
    kind: What,
    /// The method that was called (of a response; else its own root is believed)
    #[arg(long)]
    method: Option<String>,
    /// The application whose keys verify, configured or in the store
    #[arg(long, value_name = "APP_ID")]
    app: Option<AppId>,
    /// Reference of Alipay's public key (支付宝公钥) or certificate, or the key itself; may be given
    /// several times
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    alipay_public_key: Vec<String>,
    /// Reference of the app's public key (应用公钥): it verifies requests, and tells keys that were
    /// mixed up
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    app_public_key: Vec<String>,
    /// Reference of the app's private key, instead of its public one; never the key itself
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    private_key: Option<String>,
    /// The charset to read in, whatever the message says of itself; by default that of its charset
    /// parameter, else of its Content-Type, else utf-8. v3 is always utf-8
    #[arg(long, value_name = "CHARSET")]
    charset: Option<String>,
    /// The algorithm that the application is set to: a weaker one isn't taken; by default that of
    /// --app, else RSA2
    #[arg(long, value_name = "SIGN_TYPE", value_parser = ["RSA2", "RSA"])]
    sign_type: Option<String>,
    /// The HTTP status of a v3 answer, if the file has no head
    #[arg(long, default_value_t = 200)]
    status: u16,
    /// A header, if the file has no head; may be given several times
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The sub_msg of Alipay's isv.invalid-signature, or @FILE: compare the string that Alipay
    /// checked with this request's
    #[arg(long, value_name = "TEXT|@FILE")]
    gateway_says: Option<String>,
    /// Show the exact sign content, and what was found on the way to the cause
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    form: Form,
    /// The body, or a raw HTTP message (head, blank line, body); - is standard input
    file: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// What Alipay posted: a form
    Notification,
    /// A v2 request (query, form, order string, or a raw HTTP message)
    Request,
    /// A reply of the v2 gateway
    Response,
    /// A v3 answer, or a v3 request as a raw HTTP message
    V3,
}

pub(crate) fn execute(context: &Context, arguments: &VerifyArguments) -> Result<(), Failure> {
    let text = message(arguments)?;
    let charset = charset_of(arguments, &text)?;
    let references = KeyReferences {
        app: arguments.app.as_ref(),
        alipay_public_key: &arguments.alipay_public_key,
        app_public_key: &arguments.app_public_key,
        private_key: arguments.private_key.as_deref(),
        sign_type: sign_type(arguments)?,
    };
    check_keys_given(arguments, &text)?;
    match verifying_keys(context, &references)? {
        Err(cause) => say_cause(arguments, &cause),
        Ok((keys, remarks)) => {
            let mut explanation = explain(arguments, &text, charset, &keys);
            let remarks = remarks.into_iter();
            remarks.for_each(|remark| explanation.remark(remark));
            let verdict = gateway_verdict(arguments, &explanation)?;
            let answer = Answer {
                explanation,
                verdict,
            };
            say(arguments, &answer)
        }
    }
}

fn sign_type(arguments: &VerifyArguments) -> Result<Option<SignType>, Failure> {
    let spelled = arguments.sign_type.as_deref();
    let parsed = spelled.map(str::parse).transpose();
    parsed.map_err(|error: ProtocolError| Failure::Usage(error.to_string()))
}

fn message(arguments: &VerifyArguments) -> Result<HttpText, Failure> {
    let bytes = input::file(&arguments.file).map_err(unreadable)?;
    let mut text = HttpText::read(&bytes);
    for line in &arguments.header {
        let header = http_text::header(line);
        let expected = || Failure::Usage("--header: expected NAME: VALUE".to_owned());
        text.headers.push(header.ok_or_else(expected)?);
    }
    Ok(text)
}

fn charset_of(arguments: &VerifyArguments, text: &HttpText) -> Result<Option<Charset>, Failure> {
    if let Some(label) = &arguments.charset {
        let charset = Charset::from_label(label);
        return charset
            .map(Some)
            .map_err(|error| Failure::Usage(format!("--charset: {error}")));
    }
    let content_type = text.header("content-type");
    let label = content_type.and_then(|value| charset::label_of_content_type(&value));
    Ok(label.and_then(|label| Charset::from_label(&label).ok()))
}

/// A request is verified with the app's key, everything else with Alipay's.
fn check_keys_given(arguments: &VerifyArguments, text: &HttpText) -> Result<(), Failure> {
    let is_request = match arguments.kind {
        What::Request => true,
        What::V3 => matches!(text.start, Start::Request { .. }),
        What::Notification | What::Response => false,
    };
    let has_own = arguments.private_key.is_some() || !arguments.app_public_key.is_empty();
    let has_alipays = !arguments.alipay_public_key.is_empty();
    let missing = match is_request {
        true if !has_own => "a request is verified with --app, --app-public-key or --private-key",
        false if !has_alipays => "give --app or --alipay-public-key",
        _ => return Ok(()),
    };
    match arguments.app {
        Some(_) => Ok(()),
        None => Err(Failure::Usage(missing.to_owned())),
    }
}

fn explain(
    arguments: &VerifyArguments,
    text: &HttpText,
    charset: Option<Charset>,
    keys: &Keys,
) -> Explanation {
    let now_ms = SystemClock.now_ms();
    let message = V3Message {
        headers: &text.headers,
        body: &text.body,
    };
    match (arguments.kind, &text.start) {
        (What::Notification, start) => {
            let form = posted_form(text, start);
            let content_type = text.header("content-type");
            match charset.filter(|_| arguments.charset.is_some()) {
                Some(forced) => diagnosis::notification_in(forced, &form, keys),
                None => diagnosis::notification(content_type.as_deref(), &form, keys),
            }
        }
        (What::Response, _) => {
            let charset = charset.unwrap_or_default();
            diagnosis::reply(&text.body, arguments.method.as_deref(), charset, keys)
        }
        (What::Request, start) => {
            let (query, body) = request_parts(text, start);
            let forced = charset.filter(|_| arguments.charset.is_some());
            diagnosis::request(&query, &body, forced, keys, now_ms)
        }
        (What::V3, Start::Request { method, target }) => {
            diagnosis::v3_request(method, target, message, keys, now_ms)
        }
        (What::V3, Start::Status(status)) => diagnosis::v3_response(*status, message, keys),
        (What::V3, Start::Nothing) => diagnosis::v3_response(arguments.status, message, keys),
    }
}

/// The form of a notification: the body, or the query of a URL or a request without a body, as it
/// comes to a return_url.
fn posted_form(text: &HttpText, start: &Start) -> Vec<u8> {
    let bare = text.body.trim_ascii();
    let is_url = bare.starts_with(b"http://") || bare.starts_with(b"https://");
    match start {
        Start::Request { .. } if bare.is_empty() => request_parts(text, start).0,
        Start::Nothing if is_url => query_of(bare).to_vec(),
        _ => text.body.clone(),
    }
}

/// The query of a URL: what stands between `?` and `#`. All of it where there is no `?` before the
/// first `=`.
fn query_of(url: &[u8]) -> &[u8] {
    let before_equals = url.split(|&byte| byte == b'=').next().unwrap_or_default();
    let start = before_equals.iter().position(|&byte| byte == b'?');
    let Some(query) = start.and_then(|at| url.get(at + 1..)) else {
        return url;
    };
    query.split(|&byte| byte == b'#').next().unwrap_or_default()
}

/// The query and the form of a request: from its head, from a URL, or all of it a query.
fn request_parts(text: &HttpText, start: &Start) -> (Vec<u8>, Vec<u8>) {
    let Start::Request { target, .. } = start else {
        let query = query_of(&text.body);
        return (query.to_vec(), Vec::new());
    };
    let query = target
        .split_once('?')
        .map(|(_, query)| query)
        .unwrap_or_default();
    let content_type = text.header("content-type").unwrap_or_default();
    let parts = content_type
        .starts_with("multipart/")
        .then(|| http_text::multipart_as_form(&content_type, &text.body))
        .flatten();
    let body = parts.unwrap_or_else(|| text.body.clone());
    (query.as_bytes().to_vec(), body)
}

/// What was found.
struct Answer {
    explanation: Explanation,
    verdict: Option<GatewayVerdict>,
}

/// Compares this request's string with Alipay's.
fn gateway_verdict(
    arguments: &VerifyArguments,
    explanation: &Explanation,
) -> Result<Option<GatewayVerdict>, Failure> {
    let Some(given) = &arguments.gateway_says else {
        return Ok(None);
    };
    if arguments.kind != What::Request {
        let text = "--gateway-says goes with --kind request: Alipay shows the string of a request";
        return Err(Failure::Usage(text.to_owned()));
    }
    let sub_msg = match given.strip_prefix('@') {
        None => given.clone(),
        Some(path) => {
            let bytes = input::file(path).map_err(unreadable)?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
    };
    let ours = explanation.rule_content().unwrap_or_default();
    let ours = plain(ours, explanation.charset());
    Ok(Some(gateway_difference(&ours, &sub_msg)))
}

fn say(arguments: &VerifyArguments, answer: &Answer) -> Result<(), Failure> {
    let explanation = &answer.explanation;
    if arguments.form.json {
        output::say_json(&as_json(answer))?;
    } else if arguments.explain {
        say_details(explanation);
    }
    if !arguments.form.json
        && let Some(verdict) = &answer.verdict
    {
        output::say(format!("gateway: {}", verdict.with_excerpts()));
    }
    match (explanation.holds(), arguments.form.json) {
        (false, _) => Err(Failure::NotVerified(explanation.to_string())),
        (true, false) => {
            output::say(explanation);
            Ok(())
        }
        (true, true) => Ok(()),
    }
}

fn say_cause(arguments: &VerifyArguments, cause: &Cause) -> Result<(), Failure> {
    if arguments.form.json {
        output::say_json(&json!({
            "verified": false,
            "kind": word(arguments.kind),
            "cause": cause.kind(),
            "text": cause.to_string(),
            "causes": [{"cause": cause.kind(), "text": cause.to_string()}],
            "remarks": [],
            "sign_content": Value::Null,
            "signed_content": Value::Null,
            "seal": Value::Null,
            "tried": 0,
            "tried_changes": [],
            "gateway": Value::Null,
        }))?;
    }
    Err(Failure::NotVerified(format!(
        "not verified: [{}] {cause}",
        cause.kind()
    )))
}

fn word(what: What) -> &'static str {
    match what {
        What::Notification => "notification",
        What::Request => "request",
        What::Response => "response",
        What::V3 => "v3",
    }
}

fn say_details(explanation: &Explanation) {
    let show = |title: &str, content: &[u8]| {
        output::say(format!(
            "{title} ({} bytes, sha256 {})",
            content.len(),
            sha256(content)
        ));
        output::say(format!("  {}", shown(content, explanation.charset())));
    };
    if let Some(content) = explanation.rule_content() {
        show("sign content by the rules", content);
    }
    if let Some(content) = explanation.signed_content()
        && explanation.rule_content() != Some(content)
    {
        show("sign content that was signed", content);
        let rule = explanation.rule_content().unwrap_or_default();
        let pairs = rule.iter().zip(content);
        let common = pairs.take_while(|(left, right)| left == right).count();
        output::say(format!("they differ from byte {} on", common + 1));
    }
    match explanation.seal() {
        Some(seal) => output::say(format!(
            "signature: made as {} by the private half of the key sha256 {}, over a text whose digest is {}",
            seal.sign_type, seal.key_fingerprint, seal.digest
        )),
        None if explanation.holds() => {}
        None => output::say("signature: no key at hand opens it"),
    }
    let changes = match explanation.tried_changes() {
        [] => "the rules alone".to_owned(),
        changes => changes.join(", "),
    };
    output::say(format!(
        "tried: {} sign contents ({changes})",
        explanation.tried()
    ));
}

fn as_json(answer: &Answer) -> Value {
    let explanation = &answer.explanation;
    let causes = |causes: &[Cause]| -> Vec<Value> {
        let each = |cause: &Cause| json!({"cause": cause.kind(), "text": cause.to_string()});
        causes.iter().map(each).collect()
    };
    let text =
        |content: Option<&[u8]>| content.map(|content| plain(content, explanation.charset()));
    let seal = explanation.seal().map(|seal| {
        json!({
            "key_sha256": seal.key_fingerprint,
            "sign_type": seal.sign_type.as_str(),
            "digest": seal.digest,
        })
    });
    json!({
        "verified": explanation.holds(),
        "kind": explanation.subject().as_str(),
        "cause": explanation.cause().map(Cause::kind),
        "text": explanation.to_string(),
        "causes": causes(explanation.causes()),
        "remarks": causes(explanation.remarks()),
        "sign_content": text(explanation.rule_content()),
        "signed_content": text(explanation.signed_content()),
        "seal": seal,
        "tried": explanation.tried(),
        "tried_changes": explanation.tried_changes(),
        "gateway": answer.verdict.as_ref().map(|verdict| verdict.with_excerpts().to_string()),
    })
}

/// The content as text, as far as it is text.
fn plain(content: &[u8], charset: Charset) -> String {
    let utf_8 = || String::from_utf8_lossy(content).into_owned();
    charset.decode(content).unwrap_or_else(|_| utf_8())
}

/// The content with everything visible, in the charset it may be of.
fn shown(content: &[u8], charset: Charset) -> String {
    match charset.decode(content) {
        Ok(text) => visible(text.as_bytes()),
        Err(_) => visible(content),
    }
}

fn sha256(content: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    hex(&Sha256::digest(content))
}
