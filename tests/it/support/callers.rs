//! Callers of the proxy: their configuration, and the proofs they send.

use alipay_sidecar::config::caller::{
    CallerConfig, CallerIdentity, CallerMode, MerchantRule, TokenDigest,
};
use alipay_sidecar::protocol::key::RsaPublicKey;
use rsa::RsaPrivateKey;
use rsa::pkcs8::DecodePrivateKey as _;

use super::{isv, keys};

/// A caller with everything that may be allowed, but for what `*` leaves out.
pub fn caller(name: &str, identity: CallerIdentity) -> CallerConfig {
    CallerConfig {
        name: name.to_owned(),
        identity,
        merchants: vec![MerchantRule::All],
        methods: vec!["*".to_owned()],
        mode: CallerMode::Enforce,
        events: false,
    }
}

/// One with a bearer token: `{name}-token`.
pub fn with_token(name: &str) -> CallerConfig {
    let digest = TokenDigest::of(&format!("{name}-token"));
    caller(name, CallerIdentity::Token(digest))
}

/// One whose SDK signs with that key of the vectors.
pub fn with_key(name: &str, key: &str) -> CallerConfig {
    let key = RsaPublicKey::from_text(&keys::public(key)).expect("a key");
    caller(name, CallerIdentity::PublicKey(key))
}

/// The same caller, for these merchants alone.
pub fn for_merchants(mut caller: CallerConfig, merchants: &[&str]) -> CallerConfig {
    let rule = |text: &&str| match *text {
        "*" => MerchantRule::All,
        selector => MerchantRule::Selected(selector.parse().expect("a selector")),
    };
    caller.merchants = merchants.iter().map(rule).collect();
    caller
}

/// The same caller, for these methods alone.
pub fn for_methods(mut caller: CallerConfig, methods: &[&str]) -> CallerConfig {
    caller.methods = methods.iter().map(|&method| method.to_owned()).collect();
    caller
}

/// The bearer token of [`with_token`], as the header has it.
pub fn bearer(name: &str) -> String {
    format!("Bearer {name}-token")
}

/// A private key of the vectors, for a signer that isn't ours.
pub fn private(name: &str) -> RsaPrivateKey {
    RsaPrivateKey::from_pkcs8_pem(&keys::private(name)).expect("a key")
}

/// A form as an SDK sends it: signed over what `params` say.
pub fn signed_form(key: &str, params: &[(&str, &str)]) -> String {
    let mut all: isv::Params = params
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let sign = isv::sign(&private(key), &isv::content(&all, &["sign"]));
    all.insert("sign".to_owned(), sign);
    isv::form(&all)
}

/// `Authorization` as a v3 SDK writes it.
pub fn v3_authorization(
    key: &str,
    (method, target): (&str, &str),
    token: &str,
    body: &str,
) -> String {
    let auth = "app_id=2021000000000001,nonce=0123456789abcdef,timestamp=1764000000000";
    let token = match token {
        "" => String::new(),
        token => format!("{token}\n"),
    };
    let content = format!("{auth}\n{method}\n{target}\n{body}\n{token}");
    let sign = isv::sign(&private(key), &content);
    format!("ALIPAY-SHA256withRSA {auth},sign={sign}")
}
