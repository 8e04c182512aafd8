//! Amounts in fen, so that no float ever touches them.
use super::node::Refusal;

/// The most one trade may cost: 100,000,000.00 yuan.
const MOST_FEN: i64 = 10_000_000_000;

/// Reads `88.88` as fen: digits, at most two decimals, between 0.01 and 100000000.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (yuan, fen) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if yuan.is_empty() || yuan.len() > 9 || fen.len() > 2 || !digits(yuan) || !digits(fen) {
        return None;
    }
    let amount = format!("{yuan}{fen:0<2}").parse().ok()?;
    (1..=MOST_FEN).contains(&amount).then_some(amount)
}

/// Reads an amount of a call, or refuses the call.
pub(super) fn parse_or_refuse(text: &str) -> Result<i64, Refusal> {
    parse(text).ok_or_else(|| Refusal::business("ACQ.INVALID_PARAMETER", "金额参数无效"))
}

/// Spells fen as yuan with two decimals.
pub(super) fn spell(fen: i64) -> String {
    format!("{}.{:02}", fen / 100, fen % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (text, fen) in [
            ("88.88", Some(8888)),
            ("0.01", Some(1)),
            ("1", Some(100)),
            ("1.1", Some(110)),
            ("100000000.00", Some(MOST_FEN)),
            ("100000000.01", None),
            ("0", None),
            ("-1", None),
            ("1.001", None),
            ("1e2", None),
            (".5", None),
            ("", None),
        ] {
            assert_eq!(parse(text), fen, "{text}");
        }
        assert_eq!(spell(8805), "88.05");
    }
}
