//! GBK: every byte as Java has it, in both directions, and back without a change.
#![no_main]

use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::error::ProtocolError;
use alipay_sidecar_fuzz::{first, oracle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (flag, rest) = first(data);
    match (flag & 1, std::str::from_utf8(rest)) {
        (1, Ok(text)) => encoded(text),
        _ => decoded(rest),
    }
});

fn decoded(bytes: &[u8]) {
    let ours = Charset::Gbk.decode(bytes);
    assert_eq!(
        ours.as_ref().ok(),
        oracle::decode(bytes, Charset::Gbk).as_ref()
    );
    match ours {
        Ok(text) => assert_eq!(Charset::Gbk.encode(&text).as_deref(), Ok(bytes)),
        Err(ProtocolError::CharsetMalformed { at, .. }) => {
            // Everything before the place that the error names is good.
            assert!(Charset::Gbk.decode(&bytes[..at]).is_ok());
            let longer = bytes.get(..at + 1).expect("a place inside");
            assert!(Charset::Gbk.decode(longer).is_err());
        }
        Err(other) => panic!("{other}"),
    }
}

fn encoded(text: &str) {
    let ours = Charset::Gbk.encode(text);
    assert_eq!(
        ours.as_ref().ok(),
        oracle::encode(text, Charset::Gbk).as_ref()
    );
    match ours {
        Ok(bytes) => assert_eq!(Charset::Gbk.decode(&bytes).as_deref(), Ok(text)),
        Err(ProtocolError::CharacterMissing { at, .. }) => {
            assert!(Charset::Gbk.encode(&text[..at]).is_ok());
            let c = text[at..].chars().next().expect("a character there");
            assert!(Charset::Gbk.encode(&c.to_string()).is_err());
        }
        Err(other) => panic!("{other}"),
    }
}
