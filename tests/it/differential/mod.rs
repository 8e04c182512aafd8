//! The protocol core against a second implementation, over random parameters.
//!
//! `independent` is written from Alipay's pages, `browser` from the HTML standard, and the `rsa`
//! crate stands in for RSA: nothing of the crate judges itself. A few thousand sets run always;
//! `DIFFERENTIAL_SETS=1000000 cargo test --release --test it differential -- --nocapture` is the
//! long form, `DIFFERENTIAL_SEED` another seed. A difference names the set: seed and number give it
//! again.

use std::num::NonZero;
use std::sync::Mutex;
use std::time::Instant;

use alipay_sidecar::protocol::authorization::{AuthString, Authorization};
use alipay_sidecar::protocol::charset::{Charset, CharsetLabel};
use alipay_sidecar::protocol::key::{AppPrivateKey, RsaPublicKey};
use alipay_sidecar::protocol::notification::UnverifiedNotification;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::request::SignedParams;
use alipay_sidecar::protocol::sign_content::{self, V3Request};
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::protocol::v3_response::V3Response;
use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::protocol::{file, text};

mod browser;
mod generate;
mod independent;
mod judge;

use generate::{DIGITS, LETTERS, Random, Set};
use independent::{Fields, Pairs, Writing};
use judge::Judge;

const SETS: u64 = 2_000;
const SEED: u64 = 20_261_125;
const GATEWAY: &str = "https://openapi.alipay.com/gateway.do";
/// `rsa` signs slowly: every so many sets our signature is compared with its own byte for byte. It
/// verifies every one.
const SIGNED_TWICE: usize = 64;

#[test]
fn requests_are_those_of_an_independent_implementation() {
    run("v2 requests", 1, check_request);
}

#[test]
fn notifications_are_taken_and_refused_by_the_pages_rules() {
    run("notifications", 10, check_notification);
}

#[test]
fn v3_requests_are_those_of_an_independent_implementation() {
    run("v3 requests", 10, check_v3_request);
}

#[test]
fn v3_responses_are_verified_over_the_pages_lines() {
    run("v3 responses", 10, check_v3_response);
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Checks so many sets on every core, and counts the differences.
#[expect(clippy::print_stdout, reason = "the figure is what the test is for")]
fn run(what: &str, part: u64, check: fn(&Keys, &mut Random) -> anyhow::Result<()>) {
    let sets = from_environment("DIFFERENTIAL_SETS", SETS) / part;
    let seed = from_environment("DIFFERENTIAL_SEED", SEED);
    let keys = Keys::new();
    let differences = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for first in 0..threads {
            let (keys, differences) = (&keys, &differences);
            scope.spawn(move || {
                let first = u64::try_from(first).expect("few");
                for number in (first..sets).step_by(threads) {
                    if let Err(error) = check(keys, &mut Random::of(seed, number)) {
                        let told = format!("set {number} of seed {seed}: {error:#}");
                        differences.lock().expect("whole").push(told);
                    }
                }
            });
        }
    });
    let differences = differences.into_inner().expect("whole");
    println!(
        "{what}: {sets} sets, {} differences (seed {seed}, {} s)",
        differences.len(),
        began.elapsed().as_secs()
    );
    let first: Vec<_> = differences.iter().take(5).collect();
    assert!(differences.is_empty(), "{first:#?}");
}

/// Each key twice: ours, and that of `rsa`.
struct Keys {
    app: [(AppPrivateKey, Judge); 3],
    platform: (AppPrivateKey, Judge),
}

impl Keys {
    fn new() -> Self {
        let all = file("keys");
        let pair = |name: &str| {
            let key = &all["keys"][name];
            let ours = AppPrivateKey::from_text(text(key, "pkcs1_bare")).expect("a key");
            (ours, Judge::from_pem(text(key, "pkcs8_pem")))
        };
        Self {
            app: ["app1024", "app2048", "app4096"].map(pair),
            platform: pair("alipay2048"),
        }
    }

    /// Mostly the usual one: the others sign slowly.
    fn app(&self, random: &mut Random) -> (&(AppPrivateKey, Judge), SignType) {
        match random.below(256) {
            0 => (&self.app[2], SignType::Rsa2),
            1..=4 => (&self.app[0], SignType::Rsa),
            5..=6 => (&self.app[0], SignType::Rsa2),
            7..=8 => (&self.app[1], SignType::Rsa),
            _ => (&self.app[1], SignType::Rsa2),
        }
    }
}

/// Ours over these bytes, judged by `rsa`.
fn sign(
    (ours, theirs): &(AppPrivateKey, Judge),
    sign_type: SignType,
    content: &[u8],
    random: &mut Random,
) -> anyhow::Result<String> {
    let sign = ours.sign(sign_type, content)?;
    let bytes = STANDARD.decode(&sign)?;
    ensure!(
        theirs.holds(sign_type, content, &bytes),
        "our signature doesn't hold"
    );
    if random.one_in(SIGNED_TWICE) {
        ensure!(
            theirs.sign(sign_type, content) == bytes,
            "the signatures differ"
        );
    }
    Ok(sign)
}

fn params(pairs: &[(String, String)]) -> anyhow::Result<Params> {
    let mut params = Params::new();
    for (name, value) in pairs {
        params.push(name, value)?;
    }
    Ok(params)
}

fn check_request(keys: &Keys, random: &mut Random) -> anyhow::Result<()> {
    let mut set = Set::new(random);
    if set.writing == Writing::Gbk && random.one_in(50) {
        set.break_charset(random);
        return check_unwritable(&set);
    }
    let charset = CharsetLabel::parse(set.label)?.charset();
    let form = independent::write_form(&set.pairs, set.writing, random).context("unwritable")?;
    let params = Params::from_form(&form, charset)?;
    let read: Pairs = params
        .iter()
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect();
    ensure!(read == set.pairs, "the form was read otherwise");
    let content = charset.encode(&sign_content::v2_request(&params))?;
    let theirs = independent::v2_content(&set.pairs, set.writing).context("unwritable")?;
    ensure!(content == theirs, "the sign contents differ");
    let (key, sign_type) = keys.app(random);
    let sign = sign(key, sign_type, &content, random)?;
    let request = SignedParams::new(params, sign.clone()).in_charset(charset)?;
    let mut sent = set
        .writing
        .fields(&independent::sent(&set.pairs))
        .context("unwritable")?;
    ensure!(independent::joined(&sent) == content, "not what was signed");
    sent.insert(b"sign".to_vec(), sign.into_bytes());
    check_shapes(&request, &sent, set.writing)
}

/// A character that the charset lacks is an error on every way out.
fn check_unwritable(set: &Set) -> anyhow::Result<()> {
    ensure!(
        independent::v2_content(&set.pairs, set.writing).is_none(),
        "writable"
    );
    let params = params(&set.pairs)?;
    let encoded = Charset::Gbk.encode(&sign_content::v2_request(&params));
    let kind = encoded.err().map(|error| error.kind());
    ensure!(kind == Some("character-missing"), "encoded, or {kind:?}");
    let laid_out = SignedParams::new(params, String::new()).in_charset(Charset::Gbk);
    let kind = laid_out.err().map(|error| error.kind());
    ensure!(kind == Some("character-missing"), "laid out, or {kind:?}");
    Ok(())
}

/// Whatever we send, taken apart by others, is exactly what was signed, and the signature.
fn check_shapes(request: &SignedParams, sent: &Fields, writing: Writing) -> anyhow::Result<()> {
    let (query, body) = (request.query(), request.body());
    let url = format!("{query}&{body}");
    check_read(
        "query and body",
        &[query.as_bytes(), body.as_bytes()],
        sent,
        writing,
    )?;
    ensure!(
        !url.contains(['+', '\'', '"', '<', '>']),
        "an unescaped character"
    );
    let in_query = independent::read_form(query.as_bytes()).context("an unreadable query")?;
    ensure!(
        in_query.contains_key(&b"charset"[..]),
        "no charset in the query"
    );
    ensure!(
        !in_query.contains_key(&b"biz_content"[..]),
        "biz_content in the query"
    );
    let order = request.order_string();
    check_read("the order string", &[order.as_bytes()], sent, writing)?;
    let page = request.page_url(GATEWAY);
    check_read("the page URL", &[query_of(&page)?], sent, writing)?;
    let form = browser::submit(&request.page_form(GATEWAY))?;
    check_read(
        "the page form",
        &[query_of(&form.action)?, &form.body],
        sent,
        writing,
    )
}

fn query_of(url: &str) -> anyhow::Result<&[u8]> {
    let query = url
        .strip_prefix(GATEWAY)
        .and_then(|rest| rest.strip_prefix('?'));
    let query = query.context("another address")?.as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%&=".contains(byte);
    ensure!(
        query.iter().all(is_plain),
        "a browser would rewrite this address"
    );
    Ok(query)
}

fn check_read(what: &str, forms: &[&[u8]], sent: &Fields, writing: Writing) -> anyhow::Result<()> {
    let mut read = Fields::new();
    for form in forms {
        let fields = independent::read_form(form).with_context(|| format!("{what}: unreadable"))?;
        for (name, value) in fields {
            ensure!(read.insert(name, value).is_none(), "{what}: a name twice");
        }
    }
    ensure!(read == *sent, "{what}: not what was signed");
    if writing == Writing::Utf8 {
        let pairs = forms.iter().flat_map(|form| form_urlencoded::parse(form));
        let read: Vec<_> = pairs.collect();
        let by_others: Fields = read
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        ensure!(
            by_others == *sent && read.len() == sent.len(),
            "{what}: read otherwise by url"
        );
    }
    Ok(())
}

/// Alipay signs in one of the readings of page 09; ours finds it, and takes no other.
fn check_notification(keys: &Keys, random: &mut Random) -> anyhow::Result<()> {
    let Set {
        writing, mut pairs, ..
    } = Set::new(random);
    pairs.retain(|(name, _)| !matches!(name.as_str(), "sign" | "sign_type" | "alipay_cert_sn"));
    if random.one_in(2) {
        pairs.push(("sign_type".to_owned(), "RSA2".to_owned()));
    }
    if random.one_in(2) {
        pairs.push((
            "alipay_cert_sn".to_owned(),
            random.text_of("0123456789abcdef", (0, 32)),
        ));
    }
    let contents = independent::notification_contents(&pairs, writing).context("unwritable")?;
    let chosen = contents[random.below(contents.len())].clone();
    let forged = forged(&chosen, random);
    let is_another = !contents.contains(&forged);
    for (content, expected) in [(&chosen, true), (&forged, !is_another)] {
        let sign = sign(&keys.platform, SignType::Rsa2, content, random)?;
        let mut pairs = pairs.clone();
        pairs.push(("sign".to_owned(), sign));
        let body = independent::write_form(&pairs, writing, random).context("unwritable")?;
        let platform: [RsaPublicKey; 1] = [keys.platform.0.public_key().clone()];
        let read = UnverifiedNotification::parse(None, &body)?;
        let verdict = read.verify(&platform, SignType::Rsa2);
        ensure!(
            verdict.is_ok() == expected,
            "expected {expected}, found {verdict:?}"
        );
        if let Ok(taken) = verdict {
            let signed = writing.bytes(taken.sign_content()).context("unwritable")?;
            ensure!(signed == *content, "verified over something else");
            let read: Pairs = taken
                .params()
                .iter()
                .map(|(n, v)| (n.into(), v.into()))
                .collect();
            ensure!(read == pairs, "the parameters were read otherwise");
        }
    }
    Ok(())
}

/// A content that no reading of the rules gives: a byte changed, cut or added.
fn forged(content: &[u8], random: &mut Random) -> Vec<u8> {
    let mut forged = content.to_vec();
    match random.below(3) {
        0 => forged.truncate(content.len() - 1),
        1 => forged.extend(b"&z=1"),
        _ => {
            let at = random.below(forged.len());
            forged[at] ^= 1;
        }
    }
    forged
}

fn check_v3_request(keys: &Keys, random: &mut Random) -> anyhow::Result<()> {
    let app_id = random.text_of(DIGITS, (16, 16));
    let cert = random
        .one_in(2)
        .then(|| random.text_of("0123456789abcdef", (32, 32)));
    let nonce = random.text_of("0123456789abcdef-", (16, 36));
    let time = 1_700_000_000_000 + i64::try_from(random.below(1 << 40))?;
    let mut auth = AuthString::new(&app_id, cert.as_deref(), &nonce, time)?;
    let cert = cert
        .map(|sn| format!("app_cert_sn={sn},"))
        .unwrap_or_default();
    let mut theirs = format!("app_id={app_id},{cert}nonce={nonce},timestamp={time}");
    if random.one_in(2) {
        auth = auth.with("expired_seconds", "120")?;
        theirs.push_str(",expired_seconds=120");
    }
    ensure!(auth.as_str() == theirs, "the auth strings differ");
    let method = random.pick(&["GET", "POST", "put", "Patch", "DELETE"]);
    let query = generate::value(random, Writing::Utf8);
    let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
    let target = format!(
        "/v3/alipay/trade/{}?q={query}",
        random.text_of(LETTERS, (1, 20))
    );
    let body = generate::value(random, Writing::Utf8).into_bytes();
    let token = random.pick(&[
        None,
        Some(""),
        Some("202611BB00000000000000000000000000001001"),
    ]);
    let content = sign_content::v3_request(&V3Request {
        auth_string: &auth,
        method,
        target: &target,
        body: &body,
        app_auth_token: token,
    });
    let expected = independent::v3_content([&theirs, method, &target], &body, token);
    ensure!(
        content.as_ref() == Some(&expected),
        "the sign contents differ"
    );
    let sign = sign(&keys.app[1], SignType::Rsa2, &expected, random)?;
    let header = auth.header(&sign);
    ensure!(
        header == format!("ALIPAY-SHA256withRSA {theirs},sign={sign}"),
        "the headers differ"
    );
    let read = Authorization::parse(&header)?;
    ensure!(
        read.auth_string == auth && read.sign == sign,
        "the header was read otherwise"
    );
    Ok(())
}

/// A response is taken as it was signed, and refused when one byte of it isn't.
fn check_v3_response(keys: &Keys, random: &mut Random) -> anyhow::Result<()> {
    let time = random.text_of(DIGITS, (13, 13));
    let nonce = random.text_of("0123456789abcdef", (1, 32));
    let mut body = generate::value(random, Writing::Utf8).into_bytes();
    let lines = [time.as_bytes(), nonce.as_bytes(), &body];
    let content = [lines.join(&b'\n'), b"\n".to_vec()].concat();
    let sign = sign(&keys.platform, SignType::Rsa2, &content, random)?;
    let is_forged = random.one_in(2);
    if is_forged {
        let at = random.below(body.len() + 1);
        body.insert(at, b' ');
    }
    let status = random.pick(&[200, 201, 400, 500]);
    let headers = [
        ("alipay-timestamp", time.as_bytes()),
        ("Alipay-Nonce", nonce.as_bytes()),
        ("ALIPAY-SIGNATURE", sign.as_bytes()),
    ];
    let response = V3Response::new(status, headers, body.clone().into())?;
    let verdict = response.verify(&[keys.platform.0.public_key().clone()]);
    ensure!(
        verdict.is_ok() != is_forged,
        "forged: {is_forged}, found {verdict:?}"
    );
    ensure!(verdict.is_err() || verdict?.body() == &body, "another body");
    Ok(())
}
