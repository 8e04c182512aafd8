//! What the sidecar owns, and what else has a meaning, in every place and spelling: refused as the
//! contract says, or passed on as it says, and nothing of what is refused arrives at Alipay.

use alipay_sidecar::net::client::Reply;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN};
use http::{Method, Request};

use crate::proxy::watched;
use crate::support::upstream::{Arrived, FakeAlipay};
use crate::support::{ALIAS, TestSidecar, header, text};

/// Who owns a parameter, or what else is special about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The sidecar sets it.
    Owned,
    /// Path and body say it on `/v2`.
    Said,
    /// The caller's own.
    Callers,
}

/// Every parameter that means something to the sidecar, a value that is good for it, and some that
/// don't mean anything.
const PARAMETERS: [(&str, &str, Kind); 18] = [
    ("app_id", "2021000000009999", Kind::Owned),
    ("sign", "AAAA", Kind::Owned),
    ("sign_type", "RSA2", Kind::Owned),
    ("timestamp", "2020-01-01 00:00:00", Kind::Owned),
    ("version", "9.9", Kind::Owned),
    ("charset", "utf-8", Kind::Owned),
    ("format", "json", Kind::Owned),
    ("app_auth_token", "merchant:shop", Kind::Owned),
    ("app_cert_sn", "0123", Kind::Owned),
    ("alipay_root_cert_sn", "0123", Kind::Owned),
    ("encrypt_type", "AES", Kind::Owned),
    ("method", "alipay.trade.pay", Kind::Said),
    ("biz_content", "{}", Kind::Said),
    ("notify_url", "https://shop.example/n", Kind::Callers),
    ("return_url", "https://shop.example/r", Kind::Callers),
    ("auth_token", "a", Kind::Callers),
    ("code", "c", Kind::Callers),
    ("prod_code", "p", Kind::Callers),
];

/// What a spelling of a name is to whoever decodes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// The very name.
    Exactly,
    /// The name in another case.
    InAnotherCase,
    /// Another name that a parameter may have.
    Another,
    /// No name at all.
    Nothing,
    /// Nothing that the head of a part may hold.
    Unreadable,
}

/// Spellings of a name, each as it stands in a form.
fn spellings(name: &str) -> Vec<(String, Means)> {
    use Means::{Another, Exactly, InAnotherCase, Nothing};
    let (first, rest) = name.split_at(1);
    let (head, tail) = name.split_at(name.len() / 2);
    let hex = |lower: bool, text: &str| -> String {
        let spell = |byte: u8| match lower {
            true => format!("%{byte:02x}"),
            false => format!("%{byte:02X}"),
        };
        text.bytes().map(spell).collect()
    };
    let capital = |text: &str| text.to_ascii_uppercase();
    let look_alike = match first {
        "a" => "\u{430}",
        "c" => "\u{441}",
        "p" => "\u{440}",
        "s" => "\u{17f}",
        _ => "\u{ff41}",
    };
    vec![
        (name.to_owned(), Exactly),
        (hex(true, name), Exactly),
        (hex(false, name), Exactly),
        (format!("{}{rest}", hex(true, first)), Exactly),
        (name.replace('_', "%5F"), Exactly),
        (capital(name), InAnotherCase),
        (format!("{}{rest}", capital(first)), InAnotherCase),
        (format!("{head}{}", capital(tail)), InAnotherCase),
        (hex(true, &capital(name)), InAnotherCase),
        (format!("x{name}"), Another),
        (format!("{name}."), Another),
        (format!("{name}-"), Another),
        (format!("_{name}"), Another),
        (hex(true, &hex(true, name)), Nothing),
        (format!("+{name}"), Nothing),
        (format!("{name}+"), Nothing),
        (format!("{name}%20"), Nothing),
        (format!("{name}%09"), Nothing),
        (format!("{name}%0d%0a"), Nothing),
        (format!("{name}%00"), Nothing),
        (format!("%00{name}"), Nothing),
        (format!("{name}[]"), Nothing),
        (format!("{name}[0]"), Nothing),
        (format!("{name}%5B%5D"), Nothing),
        (format!("{name};"), Nothing),
        (format!("\"{name}\""), Nothing),
        (format!("{}{rest}", hex(true, look_alike)), Nothing),
        (format!("{head}{}{tail}", hex(true, "\u{200b}")), Nothing),
        (format!("{}{name}", hex(true, "\u{feff}")), Nothing),
        (format!("{name}{}", hex(true, "\u{301}")), Nothing),
    ]
}

/// Where a parameter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Form,
    Part,
    Query,
}

/// On which route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Gateway,
    V2,
}

/// A request with parameters in several places.
#[derive(Debug, Default)]
struct Sent {
    query: Vec<String>,
    form: Vec<String>,
    parts: Vec<(String, String)>,
}

impl Sent {
    /// Adds a parameter, its name as a form spells it.
    fn with(mut self, place: Place, name: &str, value: &str) -> Self {
        let pair = format!("{name}={}", escaped(value));
        match place {
            Place::Form => self.form.push(pair),
            Place::Part => self.parts.push((decoded(name), value.to_owned())),
            Place::Query => self.query.push(pair),
        }
        self
    }

    async fn send(&self, sidecar: &TestSidecar, route: Route) -> Reply {
        let mut query = self.query.clone();
        let path = match route {
            Route::V2 => "/v2/alipay.trade.pay",
            Route::Gateway => "/gateway.do",
        };
        // Last, so that what comes first can't be overlooked.
        if route == Route::Gateway {
            query.push("method=alipay.trade.pay".to_owned());
        }
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{path}?{}", query.join("&")).replace('"', "%22"))
            .header("alipay-merchant", ALIAS);
        if self.parts.is_empty() {
            return sidecar.proxy(request, self.form.join("&")).await;
        }
        let form = "multipart/form-data; boundary=x";
        sidecar
            .proxy(request.header("content-type", form), multipart(&self.parts))
            .await
    }
}

fn escaped(value: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    value.bytes().map(escape).collect()
}

/// What a form's spelling of a name says: parts aren't encoded.
fn decoded(name: &str) -> String {
    let form = format!("{name}=");
    let mut pairs = form_urlencoded::parse(form.as_bytes());
    let (name, _) = pairs.next().expect("one pair");
    name.into_owned()
}

fn multipart(parts: &[(String, String)]) -> String {
    let part = |(name, value): &(String, String)| {
        // As browsers write what would end the name.
        let name = name
            .replace('"', "%22")
            .replace('\r', "%0D")
            .replace('\n', "%0A");
        format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let parts: String = parts.iter().map(part).collect();
    format!("{parts}--x--\r\n")
}

/// What the contract says of one parameter: the error, or nothing where it passes.
fn expected(route: Route, place: Place, (name, kind): (&str, Kind), means: Means) -> &'static str {
    match (means, route, kind) {
        (Means::Unreadable, ..) => "body-invalid",
        (Means::Nothing, ..) => "parameter-invalid",
        (Means::Another, ..) | (_, _, Kind::Callers) => "",
        (_, Route::V2, Kind::Owned) => "parameter-reserved",
        // The parts of an upload have no other place for it.
        (Means::Exactly, Route::V2, Kind::Said)
            if (name, place) == ("biz_content", Place::Part) =>
        {
            ""
        }
        (_, Route::V2, Kind::Said) => "parameter-duplicate",
        // Everything else is read by it.
        (Means::InAnotherCase, Route::Gateway, Kind::Owned) if name == "charset" => {
            "parameter-invalid"
        }
        (_, Route::Gateway, Kind::Owned) => "",
        (_, Route::Gateway, Kind::Said) if name == "method" => "parameter-duplicate",
        (_, Route::Gateway, Kind::Said) => "",
    }
}

/// What is wrong with an answer and what arrived; nothing where all is well.
async fn fault(
    alipay: &FakeAlipay,
    reply: &Reply,
    expected: &str,
    may_encrypt: bool,
) -> Option<String> {
    let (error, arrived) = (
        header(reply, "alipay-sidecar-error"),
        alipay.arrived().await,
    );
    let accepted = usize::from(expected.is_empty());
    if error != expected || arrived.len() != accepted {
        let arrivals = arrived.len();
        return Some(format!(
            "{error:?}, not {expected:?}; {arrivals} arrived; {}",
            text(reply)
        ));
    }
    arrived.iter().find_map(|one| usurped(one, may_encrypt))
}

/// What the sidecar owns and didn't set.
fn usurped(arrived: &Arrived, may_encrypt: bool) -> Option<String> {
    let params = arrived.params();
    let encrypt_type = params.get("encrypt_type").filter(|_| !may_encrypt);
    let owned = [
        ("app_id", DEFAULT_APP_ID),
        ("app_auth_token", FIRST_APP_AUTH_TOKEN),
        ("charset", "utf-8"),
        ("method", "alipay.trade.pay"),
        ("sign_type", "RSA2"),
        ("version", "1.0"),
    ];
    let wrong = owned
        .iter()
        .find(|(name, value)| params.get(name) != Some(value));
    let is_old = params
        .get("timestamp")
        .is_none_or(|time| time.starts_with("2020"));
    let is_forged = params.get("sign").is_none_or(|sign| sign == "AAAA");
    let has_serial = params.get("app_cert_sn").is_some();
    let is_usurped = wrong.is_some() || is_old || is_forged || has_serial || encrypt_type.is_some();
    is_usurped.then(|| format!("{wrong:?} {params:?}"))
}

#[tokio::test]
async fn each_in_every_place_and_spelling_is_refused_or_passes_as_the_contract_says() {
    let (alipay, sidecar) = watched().await;
    let (mut wrong, mut sent, mut refused) = (Vec::new(), 0, 0);
    let places = [
        (Route::Gateway, Place::Query),
        (Route::Gateway, Place::Form),
        (Route::Gateway, Place::Part),
        (Route::V2, Place::Query),
        (Route::V2, Place::Part),
    ];
    for (name, value, kind) in PARAMETERS {
        for (spelling, means) in spellings(name) {
            for (route, place) in places {
                let means = match place {
                    Place::Part if spelling.contains("%00") => Means::Unreadable,
                    _ => means,
                };
                let expected = expected(route, place, (name, kind), means);
                let one = Sent::default().with(place, &spelling, value);
                let reply = one.send(&sidecar, route).await;
                sent += 1;
                refused += usize::from(!expected.is_empty());
                let may_encrypt = name == "encrypt_type";
                if let Some(fault) = fault(&alipay, &reply, expected, may_encrypt).await {
                    wrong.push(format!("{route:?} {place:?} {spelling:?}: {fault}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("{sent} requests, {refused} of them refused, none of which arrived");
}

#[tokio::test]
async fn each_given_twice_is_refused_wherever_and_however_the_two_are_spelled() {
    let (alipay, sidecar) = watched().await;
    let (mut wrong, mut sent) = (Vec::new(), 0);
    let pairs = [
        (Route::Gateway, Place::Query, Place::Query),
        (Route::Gateway, Place::Query, Place::Form),
        (Route::Gateway, Place::Form, Place::Form),
        (Route::Gateway, Place::Query, Place::Part),
        (Route::Gateway, Place::Part, Place::Part),
        (Route::V2, Place::Query, Place::Query),
        (Route::V2, Place::Query, Place::Part),
        (Route::V2, Place::Part, Place::Part),
    ];
    let is_same =
        |(_, means): &(String, Means)| matches!(means, Means::Exactly | Means::InAnotherCase);
    for (name, value, kind) in PARAMETERS {
        for (spelling, means) in spellings(name).into_iter().filter(is_same) {
            for (route, first, second) in pairs {
                let both = Sent::default()
                    .with(first, name, value)
                    .with(second, &spelling, value);
                let reply = both.send(&sidecar, route).await;
                sent += 1;
                let error = header(&reply, "alipay-sidecar-error").to_owned();
                let arrived = alipay.arrived().await.len();
                // Official SDKs send some of what is owned in both places.
                let is_one = route == Route::Gateway
                    && first != second
                    && kind == Kind::Owned
                    && means == Means::Exactly;
                let is_right = match (route, kind) {
                    _ if is_one => error.is_empty() && arrived == 1,
                    (Route::V2, Kind::Owned) => {
                        ["parameter-reserved", "parameter-duplicate"].contains(&&*error)
                    }
                    _ => error == "parameter-duplicate",
                };
                if !is_right || (!is_one && arrived > 0) {
                    let said = text(&reply);
                    wrong.push(format!(
                        "{route:?} {first:?} {name}, {second:?} {spelling}: {error:?} {arrived} {said}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("{sent} requests with a parameter twice");
}

#[tokio::test]
async fn in_json_they_are_the_business_of_whoever_reads_it() {
    let (alipay, sidecar) = watched().await;
    for (name, value, _) in PARAMETERS {
        for body in [
            format!("{{\"{name}\":{value:?}}}"),
            format!(
                "{{\"{}\":{value:?}, \"x\":[{{\"{name}\":1}}]}}",
                name.to_ascii_uppercase()
            ),
            format!(
                "{{\"\\u{:04x}{}\":1}}",
                u32::from(name.as_bytes()[0]),
                &name[1..]
            ),
        ] {
            let reply = sidecar.post("/v2/alipay.trade.pay", body.clone()).await;
            assert_eq!(header(&reply, "alipay-sidecar-error"), "", "{body}");
            let arrived = alipay.next().await;
            assert_eq!(arrived.param("biz_content"), body, "byte for byte");
            assert_eq!(usurped(&arrived, false), None);
        }
    }
    assert!(alipay.is_quiet().await);
}
