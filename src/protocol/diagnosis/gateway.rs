//! Our sign content against the one that Alipay says it has checked.
//!
//! Protocol: 公共错误码, `isv.invalid-signature`: `sub_msg` holds the gateway's own sign string,
//! HTML-escaped.

use std::{cmp::Ordering, fmt};

use super::{
    cause::{Cause, named, quoted},
    gateway_text::{separators, split, string_in},
    html, repairs,
    visible::visible_text,
};

/// Tells what the comparison found. `Display` is one line, fit for a log: a name, a place, which
/// characters differ, and why; of values it shows nothing else. `Debug` shows no value either.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GatewayVerdict {
    /// Both strings differ, first here.
    Different(Difference),
    /// Both are equal, so it is the key.
    Equal,
    /// Alipay's string stops in the middle of ours, and is equal up to there.
    EqualSoFar {
        /// How many characters there are of it.
        characters: usize,
    },
    /// `sub_msg` holds no such string.
    NoString,
}

/// Tells where two sign contents begin to differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    name: String,
    kind: DifferenceKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum DifferenceKind {
    /// Alipay has a parameter that we didn't sign.
    Extra,
    /// Alipay doesn't see a parameter that we signed.
    Missing,
    Value(Values),
}

/// Two values of one parameter.
#[derive(Clone, PartialEq, Eq)]
struct Values {
    /// The character, counted from 1.
    at: usize,
    ours: Side,
    theirs: Side,
    why: Option<String>,
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// One value, as far as it is shown.
#[derive(Clone, PartialEq, Eq)]
struct Side {
    /// The first character that differs; `None` at the end of the value.
    first: Option<char>,
    /// Some twenty characters around it, unless it may be a secret.
    excerpt: String,
}

impl GatewayVerdict {
    /// The same line with some twenty characters of each value around the difference, for who may
    /// see the request; tokens and codes stay hidden. Not for a log: values hold personal data.
    pub fn with_excerpts(&self) -> impl fmt::Display + '_ {
        Excerpts(self)
    }
}

struct Excerpts<'a>(&'a GatewayVerdict);

impl fmt::Display for Excerpts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            GatewayVerdict::Different(difference) => {
                difference.write(f, |side| side.excerpt.clone())
            }
            other => other.fmt(f),
        }
    }
}

impl Difference {
    /// Names the parameter.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Compares the sign content that we signed with the `sub_msg` of `isv.invalid-signature`.
#[must_use]
pub fn gateway_difference(ours: &str, sub_msg: &str) -> GatewayVerdict {
    let once = html::unescape(sub_msg);
    let twice = html::unescape(&once);
    let text = match separators(sub_msg) {
        Some(0) => sub_msg,
        Some(2) => &twice,
        // A single parameter has none: then an answer that isn't escaped is known by being equal.
        None if string_in(sub_msg, ours) == Some(ours) => sub_msg,
        _ => &once,
    };
    let Some(theirs) = string_in(text, ours) else {
        return GatewayVerdict::NoString;
    };
    if theirs == ours {
        return GatewayVerdict::Equal;
    }
    let ends_within = ours
        .strip_prefix(theirs)
        .is_some_and(|rest| !rest.starts_with('&'));
    match ends_within {
        true => GatewayVerdict::EqualSoFar {
            characters: theirs.chars().count(),
        },
        false => GatewayVerdict::Different(first_difference(ours, theirs)),
    }
}

fn common_characters(left: &str, right: &str) -> usize {
    let pairs = left.chars().zip(right.chars());
    pairs.take_while(|(left, right)| left == right).count()
}

fn first_difference(ours: &str, theirs: &str) -> Difference {
    let (ours, theirs) = (split(ours), split(theirs));
    let (mut left, mut right) = (ours.iter().peekable(), theirs.iter().peekable());
    loop {
        let (name, kind) = match (left.peek(), right.peek()) {
            (Some((name, _)), None) => (name, DifferenceKind::Missing),
            (None, Some((name, _))) => (name, DifferenceKind::Extra),
            // Both end: the difference is one of spelling that splitting doesn't show.
            (None, None) => (&"", DifferenceKind::Missing),
            (Some((ours, value)), Some((theirs, other))) => match ours.cmp(theirs) {
                Ordering::Less => (ours, DifferenceKind::Missing),
                Ordering::Greater => (theirs, DifferenceKind::Extra),
                Ordering::Equal if value == other => {
                    left.next();
                    right.next();
                    continue;
                }
                Ordering::Equal => (ours, DifferenceKind::Value(values(ours, value, other))),
            },
        };
        let name = named(name);
        return Difference { name, kind };
    }
}

fn values(name: &str, ours: &str, theirs: &str) -> Values {
    let at = common_characters(ours, theirs);
    let hide = is_secret(name, ours) || is_secret(name, theirs);
    let side = |value: &str| Side {
        first: value.chars().nth(at),
        excerpt: match hide {
            true => format!("(hidden, {} characters)", value.chars().count()),
            false => excerpt(value, at),
        },
    };
    let is_long = ours.len().max(theirs.len()) > LONGEST_COMPARED;
    let causes = (!is_long).then(|| repairs::between(name, theirs, ours));
    let why = causes.flatten().map(|causes| {
        let texts: Vec<_> = causes.iter().map(Cause::to_string).collect();
        texts.join("; ")
    });
    Values {
        at: at + 1,
        ours: side(ours),
        theirs: side(theirs),
        why,
    }
}

/// Says which character stands where values part: letters and digits, which tell something of a
/// value, only by their kind.
fn character(side: &Side) -> String {
    match side.first {
        None => "nothing".to_owned(),
        Some(' ') => "a space".to_owned(),
        Some(c) if c.is_ascii_alphabetic() => "a letter".to_owned(),
        Some(c) if c.is_ascii_digit() => "a digit".to_owned(),
        Some(c) if c.is_ascii_graphic() && c != '`' => format!("`{c}`"),
        Some(c) => format!("U+{:04X}", u32::from(c)),
    }
}

/// Shows a few characters around the difference.
fn excerpt(value: &str, at: usize) -> String {
    const BEFORE: usize = 8;
    const LENGTH: usize = 20;
    let start = at.saturating_sub(BEFORE);
    let shown: String = value.chars().skip(start).take(LENGTH).collect();
    let lead = if start > 0 { "…" } else { "" };
    let is_cut = value.chars().count() > start + LENGTH;
    let tail = if is_cut { "…" } else { "" };
    format!("`{lead}{}{tail}`", visible_text(&shown))
}

/// Tells whether a value is or may hold a token, a code or a signature.
fn is_secret(name: &str, value: &str) -> bool {
    const WORDS: [&str; 4] = ["token", "auth_code", "secret", "password"];
    let named = WORDS.iter().any(|word| name.contains(word)) || matches!(name, "code" | "sign");
    let inside = WORDS.iter().any(|word| value.contains(word))
        || value.contains("\"code\"")
        || (name == "biz_content" && value.contains("\\u00"));
    named || inside
}

impl fmt::Display for GatewayVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Different(difference) => difference.fmt(f),
            Self::Equal => f.write_str(
                "Alipay checked exactly the string that was signed, so it is the key: the private \
                 key doesn't belong to the public one (应用公钥) uploaded for this app and \
                 environment; upload the public half of the key in use, or configure the right one",
            ),
            Self::EqualSoFar { characters } => write!(
                f,
                "the {characters} characters that Alipay shows of the string it checked equal \
                 ours; if the rest does, too, it is the key: 应用公钥 of this app isn't the public \
                 half of the private key in use"
            ),
            Self::NoString => f.write_str(
                "Alipay doesn't show the string it checked; make sure that `charset` stands in \
                 the query and names what is really sent, and that the public half of the private \
                 key in use is the 应用公钥 of this app",
            ),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, character)
    }
}

impl Difference {
    fn write(&self, f: &mut fmt::Formatter<'_>, show: fn(&Side) -> String) -> fmt::Result {
        let name = quoted(&self.name);
        write!(f, "Alipay checked another string than was signed: ")?;
        match &self.kind {
            DifferenceKind::Extra => write!(
                f,
                "it sees {name}, which wasn't signed; sign all that is sent, and send nothing else"
            ),
            DifferenceKind::Missing => write!(
                f,
                "it doesn't see {name}, which was signed; it was dropped on the way, or sent empty"
            ),
            DifferenceKind::Value(values) => {
                let (at, why) = (values.at, values.why.as_deref());
                let (ours, theirs) = (show(&values.ours), show(&values.theirs));
                write!(
                    f,
                    "{name} differs from character {at} on: signed {ours}, checked {theirs}"
                )?;
                why.map_or(Ok(()), |why| write!(f, ": {why}"))
            }
        }
    }
}

/// Longer values are compared, but no cause is sought.
const LONGEST_COMPARED: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: &str = "app_auth_token=202611BBsecret&app_id=1&biz_content={\"subject\":\"a+b & \
                        c\"}&charset=utf-8&method=alipay.trade.query";

    fn escaped(content: &str) -> String {
        let escaped = content
            .replace('&', "&amp;")
            .replace('"', "&quot;")
            .replace('<', "&lt;");
        format!(
            "验签出错，建议检查签名字符串或签名私钥与应用公钥是否匹配，网关生成的验签字符串为：{escaped}"
        )
    }

    fn check(theirs: &str, texts: &[&str]) {
        check_said(
            gateway_difference(OURS, &escaped(theirs)).to_string(),
            texts,
        );
    }

    fn check_excerpts(theirs: &str, texts: &[&str]) {
        let verdict = gateway_difference(OURS, &escaped(theirs));
        check_said(verdict.with_excerpts().to_string(), texts);
    }

    fn check_said(said: String, texts: &[&str]) {
        for text in texts {
            assert!(said.contains(text), "no {text} in: {said}");
        }
        assert!(!said.contains("202611BB"), "{said}");
        assert!(!said.contains('\n'));
    }

    #[test]
    fn equal_strings_mean_the_key() {
        assert_eq!(
            gateway_difference(OURS, &escaped(OURS)),
            GatewayVerdict::Equal
        );
        // An answer that isn't escaped, or escaped twice, is understood, too.
        assert_eq!(
            gateway_difference(OURS, &format!("验签字符串为：{OURS}")),
            GatewayVerdict::Equal
        );
        let twice = escaped(OURS).replace('&', "&amp;");
        assert_eq!(gateway_difference(OURS, &twice), GatewayVerdict::Equal);
        let bare = escaped(OURS).split_once('：').unwrap().1.to_owned();
        assert_eq!(gateway_difference(OURS, &bare), GatewayVerdict::Equal);
    }

    #[test]
    fn the_first_difference_is_named_by_its_characters() {
        check(
            &OURS.replace("a+b", "a b"),
            &[
                "`biz_content` differs from character 14 on: signed `+`, checked a space: `+` \
                 became a space",
            ],
        );
        for (theirs, shown) in [
            ("a中b", "signed `+`, checked U+4E2D"),
            ("a\u{fffd}b", "checked U+FFFD"),
            ("axb", "checked a letter"),
            ("a1b", "checked a digit"),
            ("a`b", "checked U+0060"),
        ] {
            check(&OURS.replace("a+b", theirs), &[shown]);
        }
        check(
            &OURS.replace("=1", "=1\u{a0}"),
            &["signed nothing, checked U+00A0"],
        );
    }

    /// A log gets no more of a value than that.
    #[test]
    fn no_value_stands_in_a_log() {
        let ours =
            "biz_content={\"cert_no\":\"362334196908\",\"name\":\"沙箱\",\"phone\":\"13800\"}";
        for theirs in ["362334196909", "", "沙"] {
            let theirs = escaped(&ours.replace("362334196908", theirs));
            let verdict = gateway_difference(ours, &theirs);
            for said in [verdict.to_string(), format!("{verdict:?}")] {
                for value in ["3623", "沙", "cert_no", "13800"] {
                    assert!(!said.contains(value), "{said}");
                }
            }
        }
    }

    #[test]
    fn excerpts_are_shown_to_who_asks() {
        check_excerpts(
            &OURS.replace("a+b", "a b"),
            &[
                "`biz_content` differs from character 14 on",
                "a+b & c",
                "a b & c",
                "`+` became a space",
            ],
        );
        check_excerpts(
            &OURS.replace("=1", "=1\u{a0}"),
            &["`app_id`", "`1`", "`1\\u{a0}`"],
        );
    }

    #[test]
    fn parameters_more_and_less_are_named() {
        check(&OURS.replace("app_id=1&", ""), &["doesn't see `app_id`"]);
        check(
            &OURS.replace("&charset", "&biz_zone=x&charset"),
            &["it sees `biz_zone`"],
        );
        check(
            &OURS.replace("&method=alipay.trade.query", ""),
            &["doesn't see `method`"],
        );
        check(&format!("{OURS}&z=1"), &["it sees `z`"]);
    }

    #[test]
    fn secrets_are_hidden() {
        let theirs = OURS.replace("BBsecret", "BBother");
        check_excerpts(
            &theirs,
            &[
                "`app_auth_token` differs",
                "(hidden, 14 characters)",
                "(hidden, 13 characters)",
            ],
        );
        let ours = "app_id=1&biz_content={\"code\":\"4b203fe6\"}";
        let said = gateway_difference(ours, &escaped(&ours.replace("4b2", "4c2")));
        let said = said.with_excerpts().to_string();
        assert!(
            said.contains("hidden") && !said.contains("203fe6"),
            "{said}"
        );
    }

    /// A value that a template escaped once more is no reason to blame the key.
    #[test]
    fn a_value_escaped_once_more_is_no_equal_string() {
        let ours = r#"app_id=1&biz_content={"a":"<b> & c"}&charset=utf-8"#;
        let value = ours.replace('"', "&quot;").replace('<', "&lt;");
        let said = gateway_difference(ours, &escaped(&value)).to_string();
        for text in ["`biz_content` differs from character 2 on", "HTML escapes"] {
            assert!(said.contains(text), "{said}");
        }
        let one = r#"biz_content={"a":1}"#;
        let said = gateway_difference(one, &escaped(&one.replace('"', "&quot;"))).to_string();
        assert!(said.contains("HTML escapes"), "{said}");
        assert_eq!(gateway_difference(one, one), GatewayVerdict::Equal);
        assert_eq!(
            gateway_difference(one, &escaped(one)),
            GatewayVerdict::Equal
        );
        // Our own text may hold escapes, too.
        let own = "app_id=1&body=a&amp;amp;b=1&lt;&charset=utf-8";
        assert_eq!(
            gateway_difference(own, &escaped(own)),
            GatewayVerdict::Equal
        );
    }

    /// Texts of one separator cost as much as they are long.
    #[test]
    fn large_texts_are_compared() {
        for piece in ["&", "=", "a&", "&amp;", "&a"] {
            let text = piece.repeat((1 << 18) / piece.len());
            let theirs = format!("验签字符串为：a=1{text}");
            let _ = gateway_difference(&format!("a=2{text}"), &theirs).to_string();
            let _ = gateway_difference(&text, &text).to_string();
        }
    }

    #[test]
    fn a_string_cut_short_and_none_at_all_are_told_apart() {
        let cut = escaped(OURS.get(..60).unwrap());
        assert_eq!(
            gateway_difference(OURS, &cut),
            GatewayVerdict::EqualSoFar { characters: 60 }
        );
        assert_eq!(
            gateway_difference(OURS, "无效签名"),
            GatewayVerdict::NoString
        );
        assert_eq!(gateway_difference("", ""), GatewayVerdict::NoString);
    }

    proptest! {
        #[test]
        fn comparing_never_panics(ours in "[a-c=&\"中;]{0,30}", theirs in "[a-c=&\"中;为：]{0,30}") {
            let _ = gateway_difference(&ours, &theirs).to_string();
            let _ = gateway_difference(&ours, &format!("字符串为{theirs}")).to_string();
        }
    }
}
