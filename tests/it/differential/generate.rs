//! Random parameters, nastier than any real ones.

use std::collections::BTreeSet;

use super::independent::{BLANK, Pairs, Writing, gbk_characters};

/// A small generator (SplitMix64): the same seed gives the same sets on every machine.
pub(super) struct Random(u64);

impl Random {
    /// The generator of one set of a run.
    pub(super) fn of(seed: u64, number: u64) -> Self {
        let mut first = Self(seed);
        Self(first.next() ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).expect("small");
        usize::try_from(self.next() % limit).expect("small")
    }

    pub(super) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Between `least` and `most` of these characters.
    pub(super) fn text_of(&mut self, alphabet: &str, (least, most): (usize, usize)) -> String {
        let alphabet: Vec<char> = alphabet.chars().collect();
        let length = least + self.below(most - least + 1);
        (0..length).map(|_| self.pick(&alphabet)).collect()
    }
}

pub(super) const DIGITS: &str = "0123456789";
pub(super) const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// What a parameter name may be made of.
const NAME: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
/// What means something in a form, a URL, HTML, JSON or a sign content.
const SPECIAL: &str = "%&=+ \"'<>;#?/\\:@$,~!*()[]{}|^`-._%&=+";

/// Every name that the pages know, and some that resemble them.
const KNOWN: [&str; 36] = [
    "ALIPAY_SDK",
    "App_Id",
    "SIGN",
    "Sign",
    "_",
    "_charset_",
    "a",
    "alipay_root_cert_sn",
    "alipay_sdk",
    "app_auth_token",
    "app_cert_sn",
    "auth_token",
    "biz_content",
    "biz_content2",
    "code",
    "encrypt_type",
    "format",
    "grant_type",
    "image_type",
    "notify_url",
    "passback_params",
    "prod_code",
    "refresh_token",
    "return_url",
    "sign",
    "sign_",
    "signature",
    "submit",
    "target_app_id",
    "terminal_info",
    "terminal_type",
    "timestamp",
    "version",
    "ws_service_url",
    "x.y-z",
    "z",
];

/// The parameters of one call.
pub(super) struct Set {
    /// How `charset` is spelled.
    pub(super) label: &'static str,
    pub(super) writing: Writing,
    pub(super) pairs: Pairs,
}

impl Set {
    pub(super) fn new(random: &mut Random) -> Self {
        let (label, writing) = random.pick(&LABELS);
        let mut taken = BTreeSet::from(["app_id", "charset", "method"].map(str::to_owned));
        let mut pairs = vec![
            ("app_id".to_owned(), random.text_of(DIGITS, (16, 16))),
            ("charset".to_owned(), label.to_owned()),
            ("method".to_owned(), "alipay.trade.query".to_owned()),
        ];
        for _ in 0..random.below(14) {
            let name = match random.below(3) {
                0 => random.text_of(NAME, (1, 64)),
                1 => random.text_of("aA_1", (1, 3)),
                _ => random.pick(&KNOWN).to_owned(),
            };
            if taken.insert(name.clone()) {
                let value = value(random, writing);
                let at = random.below(pairs.len() + 1);
                pairs.insert(at, (name, value));
            }
        }
        Self {
            label,
            writing,
            pairs,
        }
    }

    /// Puts a character somewhere that the charset lacks.
    pub(super) fn break_charset(&mut self, random: &mut Random) {
        let lacking = random.pick(&[
            '😀',
            '\u{a0}',
            'ñ',
            '\u{80}',
            '\u{3400}',
            '\u{2028}',
            '\u{10ffff}',
        ]);
        let mut signed = self.pairs.iter_mut().filter(|(name, _)| name != "sign");
        let (_, value) = signed.next_back().expect("three at least");
        value.push('x');
        value.push(lacking);
    }
}

const LABELS: [(&str, Writing); 12] = [
    ("utf-8", Writing::Utf8),
    ("UTF-8", Writing::Utf8),
    ("utf8", Writing::Utf8),
    ("UTF8", Writing::Utf8),
    ("Utf-8", Writing::Utf8),
    ("uTf8", Writing::Utf8),
    ("GBK", Writing::Gbk),
    ("gbk", Writing::Gbk),
    ("Gbk", Writing::Gbk),
    ("gb2312", Writing::Gbk),
    ("GB2312", Writing::Gbk),
    ("Gb2312", Writing::Gbk),
];

/// A value of one kind, or of several in a row.
pub(super) fn value(random: &mut Random, writing: Writing) -> String {
    let length = match random.below(2_000) {
        0 => 20_000,
        1..=20 => 1_000,
        _ => 24,
    };
    let mut value = String::new();
    for _ in 0..=random.below(3) {
        let piece = piece(random, writing, length);
        value.push_str(&piece);
    }
    value
}

fn piece(random: &mut Random, writing: Writing, length: usize) -> String {
    match random.below(12) {
        0 => String::new(),
        1 => characters(random, writing, 3, |random| random.pick(&BLANK)),
        2 => random.text_of(SPECIAL, (1, length)),
        3 => random.text_of(LETTERS, (1, length)),
        4 => characters(random, writing, length, |random| {
            char::from(u8::try_from(random.below(0x80)).expect("ASCII"))
        }),
        5 => characters(random, Writing::Gbk, length, |random| {
            random.pick(gbk_characters())
        }),
        6 => characters(random, writing, length, any_character),
        7 => characters(random, writing, length, |random| {
            random.pick(&[
                '€', '·', '—', '…', '\u{3000}', '\u{a0}', '\u{2007}', '\u{feff}', '\u{85}',
                '\u{fffe}',
            ])
        }),
        8 => json(random, writing),
        _ => random.pick(&TEXTS).to_owned(),
    }
}

/// Up to `most` characters, those left out that can't be written.
fn characters(
    random: &mut Random,
    writing: Writing,
    most: usize,
    mut draw: impl FnMut(&mut Random) -> char,
) -> String {
    let count = random.below(most + 1);
    let drawn = (0..count).map(|_| draw(random));
    let is_written = |c: &char| writing == Writing::Utf8 || writing.bytes(&c.to_string()).is_some();
    drawn.filter(is_written).collect()
}

fn any_character(random: &mut Random) -> char {
    let limit = random.pick(&[0x100, 0x3000, 0x1_0000, 0x11_0000]);
    let code = u32::try_from(random.below(limit)).expect("small");
    // Surrogates aren't characters.
    char::from_u32(code).unwrap_or('中')
}

fn json(random: &mut Random, writing: Writing) -> String {
    let subject = characters(random, writing, 12, |random| random.pick(gbk_characters()));
    let cents = random.below(100);
    format!(
        "{{ \"subject\":\"{subject}\\u00e9\\\"\\/\",\r\n\t\"amount\":88.{cents:02}00,\"n\":9007199254740993,\"n\":1}}"
    )
}

/// What has gone wrong somewhere before.
const TEXTS: [&str; 12] = [
    "%25",
    "%2B%zz%",
    "a=1&sign=x",
    "&sign=",
    "&amp;&lt;&#39;&quot",
    "</script><script>",
    "\r\n",
    "\r",
    "\0",
    "http://x/?a=1&b=2#c",
    "\"><input name=\"z",
    "merchant:shop",
];
