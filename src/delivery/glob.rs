//! Globs of routes: `*` stands for any run of characters, `?` for one.

/// Whether the whole of `text` fits `pattern`.
///
/// Linear in memory and never exponential: only the last `*` is ever taken up again.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    let mut last_star = None;
    loop {
        let here = text.clone();
        match (pattern.next(), text.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                last_star = Some((pattern.clone(), here.clone()));
                text = here;
                continue;
            }
            (Some(p), Some(t)) if p == '?' || p == t => continue,
            _ => {}
        }
        let Some((after_star, mut from)) = last_star.take() else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        pattern = after_star.clone();
        text = from.clone();
        last_star = Some((after_star, from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, fitting: &[&str], other: &[&str]) {
        for text in fitting {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for text in other {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn globs_fit_the_whole_text() {
        check(
            "trade_status_sync",
            &["trade_status_sync"],
            &["trade_status_syncs", "", "trade"],
        );
        check("*", &["", "a", "/orders/42"], &[]);
        check(
            "alipay.open.*",
            &["alipay.open.", "alipay.open.auth.x"],
            &["alipay.openx", "x.alipay.open."],
        );
        check(
            "*.cancelled",
            &["a.cancelled", ".cancelled", "x.cancelled.cancelled"],
            &["cancelled", "a.cancelledx"],
        );
        check(
            "/orders/*/paid",
            &["/orders/1/paid", "/orders/a/b/paid", "/orders//paid"],
            &["/orders/paid"],
        );
        check("a?c", &["abc", "a中c"], &["ac", "abbc"]);
        check("*a*b*", &["ab", "xaybz", "aab"], &["ba", "a", "b"]);
        check("", &[""], &["a"]);
        check("**", &["", "ab"], &[]);
    }

    #[test]
    fn many_stars_end_soon() {
        let pattern = "*a".repeat(40);
        assert!(!fits(&pattern, &"a".repeat(4000).replace("aaaa", "aab")));
    }
}
