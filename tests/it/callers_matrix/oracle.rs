//! What has to come of each case. It reads the tables, and knows nothing of the sidecar's code.

use super::methods::{Becomes, METHODS, Named};
use super::tables::{AppTag, CANCELLED, CallerRow, How, Means, Proof, RECORDS, TagRow};

/// What has to come of a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// A code of the sidecar's; none: the call is made, or signed.
    pub code: &'static str,
    /// For whom, and as which app, it arrives at Alipay.
    pub arrives: Option<Whom>,
    /// For whom, and as which app, it is signed and handed back.
    pub signed: Option<Whom>,
    /// How often it is reported that a rule would have refused it.
    pub reported: usize,
}

/// A record's letter, or `S`; and the app.
pub type Whom = (char, usize);

const FORBIDDEN: &str = "caller-forbidden";
const EVERYBODY: &str = "ABCDEFGHIJKLMNOPQRSTUVW";

pub fn verdict(caller: &CallerRow, tag: &TagRow, method: usize) -> Verdict {
    let mut reported = 0;
    let found = judge(caller, tag, method, &mut reported);
    let (arrives, signed, code) = match (found, METHODS[method].2) {
        (Ok(whom), Becomes::Signed) => (None, Some(whom), ""),
        (Ok(whom), _) => (Some(whom), None, ""),
        (Err(code), _) => (None, None, code),
    };
    Verdict {
        code,
        arrives,
        signed,
        reported,
    }
}

fn judge(
    caller: &CallerRow,
    tag: &TagRow,
    method: usize,
    reported: &mut usize,
) -> Result<Whom, &'static str> {
    let (named, allowed, becomes) = METHODS[method];
    if !is_proved(caller, named) {
        return Err(match becomes {
            Becomes::Unreadable(code) if may_be_signed(caller, named) => code,
            _ => "caller-unauthenticated",
        });
    }
    if let Becomes::Refused(code) | Becomes::Unreadable(code) = becomes {
        return Err(code);
    }
    // On /v2 a token is no tag.
    if let (How::Token(_), Named::V2(_)) = (tag.0, named) {
        return Err("parameter-reserved");
    }
    if !allowed.split(' ').any(|name| name == caller.name) {
        refuse(caller, reported)?;
    }
    let app = app_named(caller, tag, named);
    let whom = match becomes {
        Becomes::SentAsOwn | Becomes::NeverSigned => own(caller, (tag, app), reported),
        _ => resolve(caller, (tag, app), reported),
    };
    match becomes {
        Becomes::NeverSigned => whom.and(Err("method-invalid")),
        _ => whom,
    }
}

fn is_proved(caller: &CallerRow, named: Named) -> bool {
    let has_signature = !matches!(named, Named::V2(_));
    caller.is_known && (has_signature || !matches!(caller.proof, Proof::Key(_)))
}

/// Whether the request is read before it is known who calls.
fn may_be_signed(caller: &CallerRow, named: Named) -> bool {
    match named {
        Named::V2(_) => false,
        Named::Form(_) | Named::Query(_) => true,
        Named::Get(_) | Named::V3(_) => matches!(caller.proof, Proof::Key(_)),
    }
}

fn refuse(caller: &CallerRow, reported: &mut usize) -> Result<(), &'static str> {
    if !caller.is_reported {
        return Err(FORBIDDEN);
    }
    *reported += 1;
    Ok(())
}

/// The app that the request names, or why it can't.
type App = Result<Option<usize>, &'static str>;

/// What an SDK says of itself counts where it is ours; a header has to name one of ours.
fn app_named(caller: &CallerRow, tag: &TagRow, named: Named) -> App {
    let is_sdk = matches!(caller.proof, Proof::Key(_)) && !matches!(named, Named::V2(_));
    match tag.1 {
        AppTag::Ours(app) => Ok(Some(app)),
        AppTag::Nobodys if !is_sdk => Err("app-unknown"),
        AppTag::Nobodys | AppTag::Unsaid => Ok(None),
    }
}

/// A call that is always the ISV's own.
fn own(
    caller: &CallerRow,
    (tag, app): (&TagRow, App),
    reported: &mut usize,
) -> Result<Whom, &'static str> {
    if !caller.reaches.contains('S') {
        refuse(caller, reported)?;
    }
    let app = match app? {
        Some(app) => app,
        // Whoever they leave, cancelled or not, one or several: the app alone counts.
        None => match left(caller, (tag, app), reported) {
            // It is the ISV's whatever the tag: what is missing is the app.
            Err("merchant-required") => return Err("app-required"),
            left => app_of_all(&left?)?,
        },
    };
    Ok(('S', app))
}

/// The one record that the tags leave.
fn resolve(
    caller: &CallerRow,
    (tag, app): (&TagRow, App),
    reported: &mut usize,
) -> Result<Whom, &'static str> {
    let left = left(caller, (tag, app), reported)?;
    if left == "S" {
        return app?.map(|app| ('S', app)).ok_or("app-required");
    }
    of_one(&left)
}

/// Whom the tags leave: for the caller; and for anybody, where its rules are only reported.
fn left(
    caller: &CallerRow,
    (tag, app): (&TagRow, App),
    reported: &mut usize,
) -> Result<String, &'static str> {
    let found = View::of(caller).find(tag.2, app);
    match found {
        Err(FORBIDDEN) if caller.is_reported => {
            *reported += 1;
            View::EVERYBODY.find(tag.2, app)
        }
        found => found,
    }
}

/// Whom somebody sees.
struct View<'a> {
    reaches: &'a str,
    rules: &'a [&'a str],
}

impl<'a> View<'a> {
    const EVERYBODY: Self = Self {
        reaches: EVERYBODY,
        rules: &["*"],
    };

    fn of(caller: &'a CallerRow) -> Self {
        Self {
            reaches: caller.reaches,
            rules: caller.merchants,
        }
    }

    fn has_rule(&self, rule: &str) -> bool {
        self.rules.contains(&rule)
    }

    fn find(&self, names: &[Means], app: App) -> Result<String, &'static str> {
        let app = app?;
        let mut left: Option<String> = None;
        for means in names {
            let found = self.one(means, app)?;
            left = Some(match left {
                None => found,
                Some(before) => both(&before, &found)?,
            });
        }
        left.ok_or("merchant-required")
    }

    /// The letters that one tag leaves.
    fn one(&self, means: &Means, app: Option<usize>) -> Result<String, &'static str> {
        let (letters, missing) = match means {
            Means::Own if self.reaches.contains('S') => return Ok("S".to_owned()),
            Means::Own => return Err(FORBIDDEN),
            Means::Selected(letters, rule) => {
                let is_known = self.has_rule("*") || self.has_rule(rule);
                (letters, (is_known, "merchant-unknown"))
            }
            Means::Token(letters) => (letters, (self.has_rule("*"), "token-unknown")),
        };
        let is_seen = |letter: &char| {
            self.reaches.contains(*letter) && app.is_none_or(|app| app == app_of(*letter))
        };
        let seen: String = letters.chars().filter(is_seen).collect();
        match (seen.is_empty(), missing) {
            (false, _) => Ok(seen),
            (true, (true, code)) => Err(code),
            (true, (false, _)) => Err(FORBIDDEN),
        }
    }
}

fn both(one: &str, other: &str) -> Result<String, &'static str> {
    let same: String = one
        .chars()
        .filter(|letter| other.contains(*letter))
        .collect();
    match same.is_empty() {
        true => Err("merchant-conflict"),
        false => Ok(same),
    }
}

/// The one app of these records; the ISV itself is of either.
fn app_of_all(letters: &str) -> Result<usize, &'static str> {
    let mut apps = letters.chars().map(|letter| match letter {
        'S' => None,
        letter => Some(app_of(letter)),
    });
    let first = apps.next().flatten().ok_or("app-required")?;
    match apps.any(|app| app != Some(first)) {
        true => Err("app-required"),
        false => Ok(first),
    }
}

/// The one record of these.
fn of_one(letters: &str) -> Result<Whom, &'static str> {
    let app = app_of_all(letters)?;
    let first = letters.chars().next().expect("somebody is left");
    if letters.len() > 1 {
        return Err("merchant-ambiguous");
    }
    match CANCELLED.contains(first) {
        true => Err("merchant-unauthorized"),
        false => Ok((first, app)),
    }
}

fn app_of(letter: char) -> usize {
    let record = RECORDS.iter().find(|record| record.letter == letter);
    record.expect("a record").app
}
