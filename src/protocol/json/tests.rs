//! What is JSON, where its members stand, and what isn't JSON.

use proptest::prelude::*;

use super::*;

fn check(text: &str, expected: &[(&str, &str)]) {
    let found = members(text.as_bytes(), Charset::Utf8).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|member| (&*member.name, &text[member.value.clone()]))
        .collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn values_are_found_to_the_byte() {
    check("{}", &[]);
    check(" \r\n{\t} ", &[]);
    check(r#"{"a":1}"#, &[("a", "1")]);
    check(
        r#"{"a":1e-5,"b":-0.5E+7,"c":2e3}"#,
        &[("a", "1e-5"), ("b", "-0.5E+7"), ("c", "2e3")],
    );
    check(
        r#"{ "a" : {"b": [ 1 , {} ] } , "c":"}\"" }"#,
        &[("a", r#"{"b": [ 1 , {} ] }"#), ("c", r#""}\"""#)],
    );
    check(
        r#"{"a":-0.5e+10,"b":[],"c":null,"d":true,"e":false,"f":0}"#,
        &[
            ("a", "-0.5e+10"),
            ("b", "[]"),
            ("c", "null"),
            ("d", "true"),
            ("e", "false"),
            ("f", "0"),
        ],
    );
    check(
        r#"{"x":"\\","y":"中\ud83d\ude00\/"}"#,
        &[("x", r#""\\""#), ("y", r#""中\ud83d\ude00\/""#)],
    );
}

#[test]
fn names_are_decoded_and_duplicates_kept() {
    check(
        r#"{"\u0073ign":1,"sign":2,"s\u0069gn":3}"#,
        &[("sign", "1"), ("sign", "2"), ("sign", "3")],
    );
}

#[test]
fn whatever_is_not_one_object_is_refused() {
    for text in [
        "",
        " ",
        "[]",
        "1",
        "null",
        "\"{}\"",
        "{",
        "}",
        "{}}",
        "{} {}",
        "{},",
        "{}x",
        "{}\0",
        "\u{feff}{}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":[1,]}",
        "{\"a\":[1 2]}",
        "{\"a\":[}",
        "{\"a\":{]}",
        "{\"a\":[}]",
        "{\"a\":01}",
        "{\"a\":+1}",
        "{\"a\":.5}",
        "{\"a\":1.}",
        "{\"a\":1e}",
        "{\"a\":-}",
        "{\"a\":0x1}",
        "{\"a\":NaN}",
        "{\"a\":tru}",
        "{\"a\":truex}",
        "{\"a\":nul",
        "{\"a\":\"b}",
        "{\"a\":\"\\\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\t\"}",
        "{\"a\":\"\0\"}",
        "{\"\\ud800\":1}",
        "{\"a\":1}// c",
        "{/**/}",
        "{\"a\":\u{a0}1}",
        "{\"a\":{\"b\"}}",
        "{\"a\":{1:2}}",
        "<html></html>",
    ] {
        assert!(
            is_one_object(text.as_bytes(), Charset::Utf8).is_err(),
            "{text:?}"
        );
    }
    for text in [
        &b"{\"a\":\"\xff\"}"[..],
        b"{\"a\":\"\xd6\xd0\"}",
        b"{\"\xc0\xaf\":1}",
        b"{}\xff",
    ] {
        assert!(
            is_one_object(text, Charset::Utf8).is_err(),
            "{}",
            text.escape_ascii()
        );
    }
}

#[test]
fn an_error_tells_where_and_of_what_kind_a_value_is() {
    let error = members(br#"{"a":1,"\ud800":2}"#, Charset::Utf8).unwrap_err();
    assert_eq!(error.at, 7);
    let all = r#"{"a":[],"b":true,"c":null,"d":1,"e":{},"f":""}"#;
    let kinds = members(all.as_bytes(), Charset::Utf8).unwrap();
    let kinds: Vec<_> = kinds.iter().map(|member| member.kind.describe()).collect();
    let expected = [
        "an array",
        "a boolean",
        "null",
        "a number",
        "an object",
        "a string",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(is_one_object(nested(MAX_DEPTH).as_bytes(), Charset::Utf8).is_ok());
    let error = is_one_object(nested(1_000_000).as_bytes(), Charset::Utf8).unwrap_err();
    assert_eq!(error.what, "values nested too deeply");
}

#[test]
fn every_truncation_is_refused() {
    let text = r#"{"a":{"b":[1,"\u4e2d",null]},"sign":"x\/y"}"#;
    for end in 0..text.len() {
        assert!(
            is_one_object(&text.as_bytes()[..end], Charset::Utf8).is_err(),
            "{end}"
        );
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::btree_map(".{0,5}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_another_printer_writes_is_cut_right(
        object in proptest::collection::btree_map(".{0,6}", json(), 0..6),
        pretty: bool,
    ) {
        let text = match pretty {
            true => serde_json::to_string_pretty(&object).unwrap(),
            false => serde_json::to_string(&object).unwrap(),
        };
        let found = members(text.as_bytes(), Charset::Utf8).unwrap();
        prop_assert_eq!(found.len(), object.len());
        for member in found {
            let value: serde_json::Value = serde_json::from_str(&text[member.value]).unwrap();
            prop_assert_eq!(&value, &object[&*member.name]);
        }
    }

    #[test]
    fn in_gbk_the_members_are_those_of_the_same_text_in_utf_8(
        object in proptest::collection::btree_map(
            "[乗乗乕亄亅€a-c]{0,4}", "[乗乕亄亅亊中\"\\\\{}/€a-c]{0,9}", 0..6),
    ) {
        let text = serde_json::to_string(&object).unwrap();
        let bytes = Charset::Gbk.encode(&text).unwrap();
        let found = members(&bytes, Charset::Gbk).unwrap();
        let plain = members(text.as_bytes(), Charset::Utf8).unwrap();
        prop_assert_eq!(found.len(), plain.len());
        for (member, same) in found.iter().zip(plain) {
            prop_assert_eq!(&member.name, &same.name);
            let value = decode_string(&bytes[member.value.clone()], Charset::Gbk).unwrap();
            prop_assert_eq!(&value, &object[&*member.name]);
        }
    }

    #[test]
    fn the_verdict_is_that_of_another_parser(text in r#"[{}\[\],:"\\ua0-2e.+\- tnf]{0,14}"#) {
        let text = format!("{{\"a\":{text}}}");
        let theirs = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
        let ours = is_one_object(text.as_bytes(), Charset::Utf8);
        // The other parser reads values too, and so refuses numbers that are out of its range
        // and lone surrogates, which are good JSON.
        if ours.is_err() {
            prop_assert!(theirs.is_err(), "{}", text);
        }
    }

    #[test]
    fn scanning_never_panics(text in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = members(&text, Charset::Utf8);
        let inside = [b"{\"a\":", text.as_slice(), b"}"].concat();
        let _ = members(&inside, Charset::Utf8);
        let _ = members(&inside, Charset::Gbk);
    }
}

#[test]
fn a_string_is_decoded_whether_it_has_escapes_or_not() {
    for (raw, text) in [
        (r#""""#, ""),
        (r#""a b""#, "a b"),
        (r#""中""#, "中"),
        (r#""a\"b\\""#, r#"a"b\"#),
        (r#""\u4e2d\n""#, "中\n"),
    ] {
        let decoded = decode_string(raw.as_bytes(), Charset::Utf8);
        assert_eq!(decoded.as_deref(), Ok(text), "{raw}");
    }
    for raw in [
        &b""[..],
        b"\"",
        b"a",
        b"\"a",
        b"a\"",
        b"\"a\"b\"",
        b"\"a\n\"",
        b"\"\x1f\"",
        b"\"\\\"",
        b"\"\\x\"",
        b"\"\xff\"",
        b"\"\\ud800\"",
        b"1",
    ] {
        let refused = decode_string(raw, Charset::Utf8);
        assert!(refused.is_err(), "{}", raw.escape_ascii());
    }
}

#[test]
fn what_has_no_escapes_is_taken_as_it_stands() {
    for (raw, text) in [
        (r#""""#, Some("")),
        (r#"" ~""#, Some(" ~")),
        (r#""中""#, Some("中")),
        (r#""a\n""#, None),
        (r#""a"b""#, None),
        ("\"\x1f\"", None),
    ] {
        assert_eq!(plain(raw.as_bytes()), text, "{raw}");
    }
    assert_eq!(plain(b"\"\xff\""), None);
    // These bytes are text in UTF-8, too, but another one.
    let gbk = decode_string(b"\"\xc4\xa3\"", Charset::Gbk);
    assert_eq!(gbk.as_deref(), Ok("模"));
}

#[test]
fn the_first_special_byte_of_eight_is_found() {
    let is_special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    for byte in 0..=u8::MAX {
        // Beside the bytes next to those that are looked for, and behind it beside those.
        for (before, behind) in [
            (b' ', b'!'),
            (b'!', b'"'),
            (b'#', b'\\'),
            (b'[', 0x1f),
            (b']', 0),
            (0x7f, 0x7f),
            (0x80, 0x9f),
            (0xff, 0xa2),
            (0xdc, 0xff),
        ] {
            for place in 0..EIGHT {
                let mut eight = [behind; EIGHT];
                eight[..place].fill(before);
                eight[place] = byte;
                let expected = eight.iter().position(is_special);
                assert_eq!(special(eight), expected, "{eight:x?}");
            }
        }
    }
}

#[test]
fn a_run_ends_at_the_first_special_byte() {
    for length in 0..40 {
        let plain = "a".repeat(length);
        assert_eq!(plain_run(plain.as_bytes()), length);
        for special in ["\"", "\\", "\n"] {
            let text = format!("{plain}{special}{plain}{special}");
            assert_eq!(plain_run(text.as_bytes()), length, "{text:?}");
        }
    }
}

#[test]
fn members_inside_are_those_of_the_object_by_itself() {
    let text = r#"{"a":{"x":1,"\u0079":{"z":[]}},"b":{"x":2},"a":"{}","c":{},"\u0061":{"w":null}}"#;
    let two_deep = members_two_deep(text.as_bytes(), Charset::Utf8, |name| name != "b");
    let (outer, inside) = two_deep.unwrap();
    assert_eq!(outer, members(text.as_bytes(), Charset::Utf8).unwrap());
    let shown = |member: &Member<'_>| format!("{}={}", member.name, &text[member.value.clone()]);
    let inside: Vec<_> = inside.iter().map(shown).collect();
    assert_eq!(inside, ["x=1", r#"y={"z":[]}"#, "w=null"]);
}

#[test]
fn what_is_inside_may_be_as_deep_and_must_be_as_good() {
    for inside in [
        r#"{"x":}"#,
        r#"{"x":1"#,
        r#"{"x":1,}"#,
        "{1}",
        r#"{"x":1}}"#,
    ] {
        let text = format!(r#"{{"a":{inside}}}"#);
        let refused = members_two_deep(text.as_bytes(), Charset::Utf8, |_| true);
        let alike = members(text.as_bytes(), Charset::Utf8);
        assert_eq!(refused.unwrap_err(), alike.unwrap_err(), "{text}");
    }
    // Good JSON, but half of a pair is no name.
    let text = br#"{"a":{"x":1,"\ud800":1},"b":{"y":1}}"#;
    let (outer, inside) = members_two_deep(text, Charset::Utf8, |_| true).unwrap();
    assert_eq!(outer, members(text, Charset::Utf8).unwrap());
    assert_eq!(inside.iter().map(|m| &*m.name).collect::<Vec<_>>(), ["y"]);
    for depth in [MAX_DEPTH - 1, MAX_DEPTH] {
        let inside = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let text = format!(r#"{{"a":{{"x":{inside}}}}}"#);
        let two_deep = members_two_deep(text.as_bytes(), Charset::Utf8, |_| true);
        let alike = members(text.as_bytes(), Charset::Utf8);
        assert_eq!(two_deep.is_ok(), depth < MAX_DEPTH, "{depth}");
        assert_eq!(two_deep.is_ok(), alike.is_ok(), "{depth}");
    }
}
