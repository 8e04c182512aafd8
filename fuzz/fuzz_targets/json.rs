//! The JSON scanner: it accepts exactly what serde_json accepts, finds the same members at the same
//! bytes, and no beginning of what it accepts.
#![no_main]

use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::json::{self, Kind, Member};
use alipay_sidecar_fuzz::oracle::{self, Object};
use alipay_sidecar_fuzz::{charset, first};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (flag, text) = first(data);
    match charset(flag) {
        Charset::Utf8 => in_utf8(text, flag),
        _ => in_gbk(text),
    }
});

fn in_utf8(text: &[u8], flag: u8) {
    let ours = json::members(text, Charset::Utf8);
    let theirs = std::str::from_utf8(text)
        .ok()
        .and_then(|_| Object::parse(text));
    match (&ours, &theirs) {
        (Ok(members), Some(object)) => same(text, members, object),
        (Ok(_), None) => panic!("only the scanner takes it"),
        // Its depth is bounded; serde_json skips values at any depth.
        (Err(error), Some(_)) => assert_eq!(error.what, "values nested too deeply"),
        (Err(_), None) => {}
    }
    if ours.is_ok() {
        let whole = text.trim_ascii_end();
        let end = usize::from(flag) * whole.len() / 256;
        assert!(json::is_one_object(&whole[..end], Charset::Utf8).is_err());
    }
}

fn same(text: &[u8], members: &[Member], object: &Object<'_>) {
    assert_eq!(members.len(), object.0.len());
    let mut behind = 0;
    for (member, (name, value)) in members.iter().zip(&object.0) {
        assert!(member.value.start >= behind, "in their order");
        behind = member.value.end;
        let raw = &text[member.value.clone()];
        assert_eq!(
            (&*member.name, raw),
            (name.as_str(), value.get().as_bytes())
        );
        assert_eq!(member.kind, kind(raw));
        if member.kind == Kind::String {
            let theirs = serde_json::from_slice::<String>(raw).ok();
            assert_eq!(json::decode_string(raw, Charset::Utf8).ok(), theirs);
        }
    }
}

fn kind(raw: &[u8]) -> Kind {
    match raw[0] {
        b'{' => Kind::Object,
        b'[' => Kind::Array,
        b'"' => Kind::String,
        b't' | b'f' => Kind::Bool,
        b'n' => Kind::Null,
        _ => Kind::Number,
    }
}

/// In GBK: what the same text in UTF-8 gives.
fn in_gbk(text: &[u8]) {
    let ours = json::members(text, Charset::Gbk);
    let Some(decoded) = oracle::decode(text, Charset::Gbk) else {
        assert!(ours.is_err());
        return;
    };
    let theirs = json::members(decoded.as_bytes(), Charset::Utf8);
    assert_eq!(ours.is_ok(), theirs.is_ok());
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else {
        return;
    };
    assert_eq!(ours.len(), theirs.len());
    for (member, same) in ours.iter().zip(theirs) {
        assert_eq!((&member.name, member.kind), (&same.name, same.kind));
        let value = oracle::decode(&text[member.value.clone()], Charset::Gbk);
        assert_eq!(value.as_deref(), Some(&decoded[same.value]));
    }
}
