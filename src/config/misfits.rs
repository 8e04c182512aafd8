//! What a configuration that a program made itself is refused for: what is dangerous, or can't be
//! served. Its values are judged by the rules that reading a file goes by, each in its section's file.

use crate::config::Config;
use crate::config::app;
use crate::config::caller::CallerConfig;
use crate::config::error::{Fault, Mismatch};
use crate::config::tls;

impl Config {
    /// What of these values is dangerous or can't be served, whoever set them, by its key in the file:
    /// addresses of Alipay's in clear text, off loopback; tokens that go out so; credentials that
    /// anybody has, or nobody can give; limits and deadlines of nothing, or that no clock reaches. One
    /// that was read has nothing of it. Of what they name nothing is looked at, and what reading a file
    /// would put into another form is none of it.
    #[must_use]
    pub fn misfits(&self) -> Vec<Fault> {
        self.clone().put_into_form()
    }

    /// Puts the values into the form that reading a file gives them, such as `webhook.base_path`
    /// without a slash at its end. One that was read has it.
    ///
    /// It gives what is wrong: [`Self::misfits`].
    pub(crate) fn put_into_form(&mut self) -> Vec<Fault> {
        let mut faults = halves(self);
        let mut root = Given {
            path: String::new(),
            faults: &mut faults,
        };
        self.proxy.judge(root.section("proxy"));
        self.webhook.judge(root.section("webhook"));
        self.admin.judge(root.section("admin"));
        self.upstream.judge(root.section("upstream"));
        self.delivery.judge(root.section("delivery"));
        self.telemetry.judge_audit(root.section("audit"));
        self.telemetry.judge(root.section("telemetry"));
        app::judge_all(&self.apps, &mut root);
        CallerConfig::judge_all(&self.callers, root);
        faults
    }
}

/// The values of one section as a program gave them.
pub(super) struct Given<'f> {
    path: String,
    faults: &'f mut Vec<Fault>,
}

impl Given<'_> {
    /// The section at `index` of its list `name`.
    pub(super) fn list_item(&mut self, name: &str, index: usize) -> Given<'_> {
        self.section(&format!("{name}[{}]", index + 1))
    }

    fn section(&mut self, name: &str) -> Given<'_> {
        Given {
            path: self.key(name),
            faults: self.faults,
        }
    }

    /// Records what is wrong with `key`.
    pub(super) fn fault(&mut self, key: &str, mismatch: Mismatch) {
        let key = self.key(key);
        self.faults.push(Fault::of_key(&key, mismatch));
    }

    /// Records what was found wrong with `key`, if it was.
    pub(super) fn check<T>(&mut self, key: &str, judged: Result<T, Mismatch>) {
        if let Err(mismatch) = judged {
            self.fault(key, mismatch);
        }
    }

    /// Puts the texts of `key` into the form that `parse` gives them.
    pub(super) fn texts<'v>(
        &mut self,
        key: &str,
        texts: impl IntoIterator<Item = &'v mut String>,
        parse: impl Fn(&str) -> Result<String, Mismatch>,
    ) {
        for text in texts {
            match parse(text) {
                Ok(in_form) => *text = in_form,
                Err(mismatch) => self.fault(key, mismatch),
            }
        }
    }

    fn key(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }
}

/// Of a certificate and its key one alone: the listener would speak plain HTTP.
fn halves(config: &Config) -> Vec<Fault> {
    let Config {
        proxy,
        webhook,
        admin,
        ..
    } = config;
    let pairs = [
        ("proxy", &proxy.tls_cert, &proxy.tls_key),
        ("webhook", &webhook.tls_cert, &webhook.tls_key),
        ("admin", &admin.tls_cert, &admin.tls_key),
    ];
    let half = pairs.into_iter().filter_map(|(section, cert, key)| {
        let (missing, expected) = match (cert, key) {
            (Some(_), None) => ("tls_key", tls::KEY_NEEDED),
            (None, Some(_)) => ("tls_cert", tls::CERT_NEEDED),
            _ => return None,
        };
        let mismatch = Mismatch::new("nothing", expected);
        Some(Fault::of_key(&format!("{section}.{missing}"), mismatch))
    });
    half.collect()
}
