//! What the matrix is made of, besides methods: callers, merchants, and the ways to name one.

use alipay_sidecar::simulator::DEFAULT_APP_ID;

/// The two apps.
pub const APPS: [&str; 2] = [DEFAULT_APP_ID, "2021000000000002"];
/// A credential of nobody, and an app of nobody.
pub const NOBODYS_APP: &str = "2021000000009999";

/// How a caller proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// `Authorization: Bearer`.
    Bearer,
    /// The SDK signs with that key of the vectors.
    Key(&'static str),
    /// It proves nothing.
    Nothing,
    /// It comes by the unix socket.
    Uid,
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub struct CallerRow {
    pub name: &'static str,
    pub proof: Proof,
    /// `false`: there is no such `[[caller]]`.
    pub is_known: bool,
    /// `mode = "report"`.
    pub is_reported: bool,
    pub merchants: &'static [&'static str],
    pub methods: &'static [&'static str],
    /// Whom these merchants are: letters; `S` is the ISV itself.
    pub reaches: &'static str,
}

/// A caller that its rules hold.
const fn enforced(
    (name, proof): (&'static str, Proof),
    (merchants, reaches): (&'static [&'static str], &'static str),
    methods: &'static [&'static str],
) -> CallerRow {
    CallerRow {
        name,
        proof,
        is_known: true,
        is_reported: false,
        merchants,
        methods,
        reaches,
    }
}

/// Whoever calls without being a caller.
const fn unknown(name: &'static str, proof: Proof) -> CallerRow {
    let row = enforced((name, proof), (&[], ""), &[]);
    CallerRow {
        is_known: false,
        ..row
    }
}

pub const CALLERS: [CallerRow; 8] = [
    enforced(
        ("all", Proof::Bearer),
        (&["*"], "ABCDEFGHIJKLMNOPQRTUVW"),
        &["*"],
    ),
    enforced(
        ("shop", Proof::Bearer),
        (&["shop", "ghost"], "A"),
        &["alipay.trade.*", "/v3/alipay/trade/*"],
    ),
    enforced(
        ("keys", Proof::Bearer),
        (&["app:2021000000001002", "self"], "BS"),
        &[
            "alipay.open.auth.token.app",
            "/v3/alipay/open/auth/*",
            "alipay.trade.query",
        ],
    ),
    enforced(
        ("sdk", Proof::Key("app2048")),
        (
            &["pid:2088000000003000", "east", "app:2021000000001007"],
            "CDKGH",
        ),
        &["*"],
    ),
    enforced(
        ("peer", Proof::Uid),
        (
            &["2021000000001003", "2088000000005000", "self", "once"],
            "CPQSIJ",
        ),
        &["alipay.*", "/v3/alipay/*"],
    ),
    CallerRow {
        is_reported: true,
        ..enforced(
            ("watched", Proof::Bearer),
            (&["tea", "fair"], "BGH"),
            &["alipay.trade.query"],
        )
    },
    unknown("nobody", Proof::Nothing),
    unknown("stranger", Proof::Key("alipay2048_other")),
];

/// A merchant's record.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Its letter, which is in its token, too.
    pub letter: char,
    /// Which of the [`APPS`] it authorised.
    pub app: usize,
    pub auth_app_id: &'static str,
    pub pid: &'static str,
    pub alias: Option<&'static str>,
}

const fn record(
    (letter, app): (char, usize),
    (auth_app_id, pid): (&'static str, &'static str),
    alias: &'static str,
) -> Record {
    Record {
        letter,
        app,
        auth_app_id,
        pid,
        alias: if alias.is_empty() { None } else { Some(alias) },
    }
}

/// Those who have cancelled.
pub const CANCELLED: &str = "EJ";

pub const RECORDS: [Record; 22] = [
    record(('A', 0), ("2021000000001001", "2088000000001001"), "shop"),
    record(('B', 0), ("2021000000001002", "2088000000001002"), "tea"),
    // One PID with two applications.
    record(('C', 0), ("2021000000001003", "2088000000003000"), "north"),
    record(('D', 0), ("2021000000001004", "2088000000003000"), "south"),
    record(('E', 0), ("2021000000001005", "2088000000001005"), "gone"),
    record(('F', 0), ("2021000000001006", "2088000000001006"), ""),
    // One application that authorised both apps.
    record(('G', 0), ("2021000000001007", "2088000000001007"), "fair"),
    record(('H', 1), ("2021000000001007", "2088000000001007"), "fair"),
    // The same; it cancelled one.
    record(('I', 0), ("2021000000001008", "2088000000001008"), "once"),
    record(('J', 1), ("2021000000001008", "2088000000001008"), "once"),
    record(('K', 1), ("2021000000002001", "2088000000002001"), "east"),
    record(('L', 1), ("2021000000002002", "2088000000002002"), ""),
    // One PID with three applications under both apps.
    record(('M', 1), ("2021000000002003", "2088000000004000"), "up"),
    record(('N', 1), ("2021000000002004", "2088000000004000"), "down"),
    record(('O', 0), ("2021000000001009", "2088000000004000"), "side"),
    // Digits that are one's application and another's PID.
    record(('P', 0), ("2088000000005000", "2088000000005001"), ""),
    record(('Q', 0), ("2021000000001010", "2088000000005000"), ""),
    record(
        ('R', 0),
        ("2021000000001011", "2088000000001011"),
        "a.b_c-d",
    ),
    // An alias that differs from another's in case alone.
    record(('T', 0), ("2021000000001012", "2088000000001012"), "Tea"),
    record(
        ('U', 0),
        ("2021000000001013", "2088000000001013"),
        "merchant",
    ),
    record(('V', 0), ("2021000000001014", "2088000000001014"), "pid"),
    record(('W', 1), ("2021000000001015", "2088000000001015"), "west"),
];

/// How a request is tagged.
#[derive(Clone, Copy, Debug)]
pub enum How {
    Header(&'static str),
    Path(&'static str),
    Token(&'static str),
    /// By header and path.
    Both(&'static str, &'static str),
    None,
}

/// Which app a request names: by `Alipay-App`, or, where an SDK calls, as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppTag {
    /// One of the [`APPS`].
    Ours(usize),
    /// One that we don't have.
    Nobodys,
    Unsaid,
}

/// Whom one tag means.
#[derive(Clone, Copy, Debug)]
pub enum Means {
    /// The ISV itself.
    Own,
    /// These records, by a selector that rules spell like that.
    Selected(&'static str, &'static str),
    /// The record that holds a token; or nobody.
    Token(&'static str),
}

use AppTag::{Nobodys, Ours, Unsaid};
use How::{Both, Header, Path, Token};
use Means::{Own, Selected};

pub type TagRow = (How, AppTag, &'static [Means]);

const SHOP: &[Means] = &[Selected("A", "shop")];
const SHOP_PID: &[Means] = &[Selected("A", "pid:2088000000001001")];
const SHOP_APP: &[Means] = &[Selected("A", "app:2021000000001001")];
const FAIR: &[Means] = &[Selected("GH", "fair")];
const FAIR_APP: &[Means] = &[Selected("GH", "2021000000001007")];
const FAIR_PID: &[Means] = &[Selected("GH", "pid:2088000000001007")];
const ONCE: &[Means] = &[Selected("IJ", "once")];
const THREE: &[Means] = &[Selected("MNO", "2088000000004000")];
const NOBODY: &[Means] = &[Selected("", "no selector")];

/// How many of the [`TAGS`], from the first, name each record, the ISV, nobody and none; the others are
/// their spellings and combinations.
pub const PLAIN_TAGS: usize = 25;

pub const TAGS: [TagRow; 63] = [
    (Header("shop"), Unsaid, SHOP),
    (
        Header("2021000000001002"),
        Unsaid,
        &[Selected("B", "2021000000001002")],
    ),
    (
        Both("2088000000003000", "north"),
        Unsaid,
        &[Selected("CD", "2088000000003000"), Selected("C", "north")],
    ),
    (Header("south"), Unsaid, &[Selected("D", "south")]),
    (Header("gone"), Unsaid, &[Selected("E", "gone")]),
    (
        Header("2021000000001006"),
        Unsaid,
        &[Selected("F", "2021000000001006")],
    ),
    (Header("fair"), Ours(0), FAIR),
    (Header("2021000000001007"), Ours(1), FAIR_APP),
    (Header("once"), Ours(0), ONCE),
    (Header("once"), Ours(1), ONCE),
    (Path("east"), Unsaid, &[Selected("K", "east")]),
    (
        Header("app:2021000000002002"),
        Ours(1),
        &[Selected("L", "app:2021000000002002")],
    ),
    (Header("up"), Unsaid, &[Selected("M", "up")]),
    (
        Both("2088000000004000", "down"),
        Unsaid,
        &[Selected("MNO", "2088000000004000"), Selected("N", "down")],
    ),
    (Header("2088000000004000"), Ours(0), THREE),
    (
        Header("app:2088000000005000"),
        Unsaid,
        &[Selected("P", "app:2088000000005000")],
    ),
    (
        Path("pid:2088000000005000"),
        Unsaid,
        &[Selected("Q", "pid:2088000000005000")],
    ),
    (Header("a.b_c-d"), Unsaid, &[Selected("R", "a.b_c-d")]),
    (Header("Tea"), Unsaid, &[Selected("T", "Tea")]),
    (
        Token("merchant:merchant"),
        Unsaid,
        &[Selected("U", "merchant")],
    ),
    (Header("pid"), Unsaid, &[Selected("V", "pid")]),
    (Header("west"), Unsaid, &[Selected("W", "west")]),
    (Header("self"), Ours(1), &[Own]),
    (Header("ghost"), Unsaid, &[Selected("", "ghost")]),
    (How::None, Unsaid, &[]),
    (Header("alias:shop"), Unsaid, SHOP),
    (Header("pid:2088000000001001"), Unsaid, SHOP_PID),
    (
        Header("2088000000001001"),
        Unsaid,
        &[Selected("A", "2088000000001001")],
    ),
    (Header("app:2021000000001001"), Unsaid, SHOP_APP),
    (Header(" shop  "), Unsaid, SHOP),
    (Path("shop"), Unsaid, SHOP),
    (Path("%73hop"), Unsaid, SHOP),
    (Path("app%3A2021000000001001"), Unsaid, SHOP_APP),
    (Token("merchant:shop"), Unsaid, SHOP),
    (Token("token-of-A"), Unsaid, &[Means::Token("A")]),
    (
        Both("shop", "2021000000001001"),
        Unsaid,
        &[Selected("A", "shop"), Selected("A", "2021000000001001")],
    ),
    (Header("shop"), Ours(0), SHOP),
    (Header("shop"), Ours(1), SHOP),
    (Header("shop"), Nobodys, SHOP),
    (Path("pid:2088000000001001"), Ours(1), SHOP_PID),
    (Token("token-of-B"), Unsaid, &[Means::Token("B")]),
    (Token("token-of-E"), Unsaid, &[Means::Token("E")]),
    (
        Path("2088000000003000"),
        Unsaid,
        &[Selected("CD", "2088000000003000")],
    ),
    (Header("self"), Unsaid, &[Own]),
    (Both("self", "self"), Ours(0), &[Own, Own]),
    (Both("self", "shop"), Unsaid, &[Own, Selected("A", "shop")]),
    (
        Both("shop", "tea"),
        Unsaid,
        &[Selected("A", "shop"), Selected("B", "tea")],
    ),
    (
        Both("tea", "ghost"),
        Unsaid,
        &[Selected("B", "tea"), Selected("", "ghost")],
    ),
    (Header("Shop"), Unsaid, NOBODY),
    (Header("shop."), Unsaid, NOBODY),
    (Header("ｓhop"), Unsaid, NOBODY),
    (Header("2021000000001999"), Unsaid, NOBODY),
    (Path("%D1%95hop"), Unsaid, NOBODY),
    (Token("token-of-X"), Unsaid, &[Means::Token("")]),
    (Header("fair"), Unsaid, FAIR),
    (Path("pid:2088000000001007"), Ours(0), FAIR_PID),
    (Token("token-of-H"), Unsaid, &[Means::Token("H")]),
    (Token("token-of-H"), Ours(0), &[Means::Token("H")]),
    (Header("once"), Unsaid, ONCE),
    (Header("2088000000004000"), Unsaid, THREE),
    (Header("2088000000004000"), Ours(1), THREE),
    (
        Header("2088000000005000"),
        Unsaid,
        &[Selected("PQ", "2088000000005000")],
    ),
    (
        Both("pid", "west"),
        Unsaid,
        &[Selected("V", "pid"), Selected("W", "west")],
    ),
];
