//! Forms and queries: read as an independent reader does, written and read again without a change.
#![no_main]

use alipay_sidecar::protocol::charset::{self, Charset};
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar_fuzz::{charset, first, oracle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (flag, raw) = first(data);
    let charset = charset(flag);
    let ours = Params::from_form(raw, charset);
    let theirs = oracle::form(raw, charset);
    let Ok(params) = ours else {
        assert!(theirs.is_none_or(|pairs| pairs.len() > 1000));
        return;
    };
    let pairs = theirs.expect("what is accepted can be read");
    assert!(params.iter().eq(oracle::borrowed(&pairs)));
    if charset == Charset::Utf8 {
        let decoded = form_urlencoded::parse(raw);
        assert!(decoded.eq(params.iter().map(|(n, v)| (n.into(), v.into()))));
    }
    written(&params, charset);
    label(raw, &params);
    of_itself(params);
});

fn written(params: &Params, charset: Charset) {
    let form = params
        .to_form(charset)
        .expect("what was decoded can be encoded");
    assert!(form.is_ascii());
    let again = Params::from_form(form.as_bytes(), charset).expect("what is written can be read");
    assert_eq!(again, *params);
    assert_eq!(again.to_form(charset).as_ref(), Ok(&form));
}

/// The charset is found before anything is decoded, and is the one that is found afterwards.
fn label(raw: &[u8], params: &Params) {
    let found = charset::label_of_form(raw);
    let given = params.get("charset");
    // What isn't ASCII is no charset's name, and is refused as it stands; decoded it may be blank.
    if given.is_none_or(str::is_ascii) {
        assert_eq!(
            found.as_deref(),
            given.filter(|name| !name.trim().is_empty())
        );
    }
}

fn of_itself(params: Params) {
    let union = params
        .clone()
        .union(params.clone())
        .expect("the same values");
    assert_eq!(union, params);
    let kept = params.clone().without_empty();
    let full = params.iter().filter(|(_, value)| !oracle::is_blank(value));
    assert!(kept.iter().eq(full));
}
