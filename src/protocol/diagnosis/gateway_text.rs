//! Sign contents in the words of the gateway, found and split.

use crate::protocol::params::is_name;

/// Tells how often the `&` between parameters are escaped: as often as the whole string was. What
/// is escaped once more in a value belongs to the value.
pub(super) fn separators(text: &str) -> Option<usize> {
    const LEVELS: [&str; 3] = ["&", "&amp;", "&amp;amp;"];
    LEVELS.iter().position(|separator| {
        let mut pieces = text.split(separator).skip(1);
        pieces.any(|piece| name_at(piece).is_some())
    })
}

/// Reads the `name=` that a text begins with, looking no further than one reaches.
fn name_at(text: &str) -> Option<&str> {
    const LONGEST: usize = 64;
    let end = text.bytes().take(LONGEST + 1).position(|byte| byte == b'=');
    text.get(..end?).filter(|name| is_name(name))
}

/// Finds the sign string in a text: behind the words that lead to it, else from our own first
/// parameter, else from whatever looks like one.
pub(super) fn string_in<'t>(text: &'t str, ours: &str) -> Option<&'t str> {
    let first = ours
        .split_inclusive('=')
        .next()
        .filter(|first| first.ends_with('='));
    let led = text.split_once("字符串为").map(|(_, behind)| behind);
    let known = || text.get(text.find(first?)?..);
    let any = || text.get(parameter_start(text)?..);
    let found = led.or_else(known).or_else(any)?;
    let is_frame = |c: char| c.is_whitespace() || "：:“”\"'【】[]。".contains(c);
    let found = found.trim_start_matches(is_frame);
    let theirs = match ours.ends_with(is_frame) {
        true => found,
        false => found.trim_end_matches(is_frame),
    };
    parameter_start(theirs)
        .filter(|&at| at == 0)
        .map(|_| theirs)
}

/// Finds where `name=` begins.
fn parameter_start(text: &str) -> Option<usize> {
    let equals = text.find('=')?;
    let before = text.get(..equals)?;
    let name = before.rsplit(|c: char| !is_name_character(c)).next()?;
    is_name(name).then(|| equals - name.len())
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

/// Splits a sign content. Values may hold `&` and `=`, but names are sorted: what isn't behind the
/// name before belongs to a value.
pub(super) fn split(content: &str) -> Vec<(&str, &str)> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    let (mut start, mut current) = (0, name_at(content));
    for (at, _) in content.match_indices('&').chain([(content.len(), "")]) {
        let next = name_at(content.get(at + 1..).unwrap_or_default());
        if at == content.len() || (next.is_some() && next > current) {
            let value = start + current.map_or(0, |name| name.len() + 1);
            let value = content.get(value..at).unwrap_or_default();
            found.push((current.unwrap_or_default(), value));
            (start, current) = (at + 1, next);
        }
    }
    found
}
