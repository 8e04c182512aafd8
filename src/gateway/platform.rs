//! With which keys Alipay may have signed: bare public keys, and platform certificates.
//!
//! Protocol: 公钥证书方式. In certificate mode each reply names the certificate that signed it, and
//! Alipay renews that certificate when it likes; so the set grows while the program runs.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;

use crate::gateway::app::SigningApp;
use crate::model::app_keys::{AppKeys, PlatformCertificate};
use crate::protocol::cert::{Bundle, CertificateError};
use crate::protocol::key::RsaPublicKey;

/// Alipay's name of the method that gives a platform certificate.
pub const DOWNLOAD_METHOD: &str = "alipay.open.app.alipaycert.download";

/// The platform keys that one app trusts at present.
pub struct PlatformKeys {
    bare: Arc<[RsaPublicKey]>,
    /// The app's own keys, which are never Alipay's.
    own: Vec<RsaPublicKey>,
    trust: Option<Trust>,
    /// Newest first. Replaced as a whole, so that a reader waits for no lock.
    certificates: ArcSwap<Vec<PlatformCertificate>>,
}

/// What a certificate must lead up to.
struct Trust {
    alipay_root_cert_sn: String,
    roots: Bundle,
}

/// The keys that something which came from Alipay must be checked with.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// These, and no others.
    Keys(Arc<[RsaPublicKey]>),
    /// The certificate it names isn't known.
    Unknown,
    /// It names no certificate although the app is in certificate mode: any of these, but a
    /// success counts only under a bare key.
    Unnamed(Arc<[RsaPublicKey]>),
}

impl PlatformKeys {
    /// The keys that were configured.
    #[must_use]
    pub fn new(keys: &AppKeys) -> Self {
        let trust = keys.certificates.as_ref();
        let own = std::iter::once(&keys.current).chain(&keys.next);
        Self {
            own: own.map(|key| key.private.public_key().clone()).collect(),
            bare: keys.alipay.clone().into(),
            certificates: ArcSwap::from_pointee(
                trust.map_or_else(Vec::new, |trust| trust.platform.clone()),
            ),
            trust: trust.map(|trust| Trust {
                alipay_root_cert_sn: trust.alipay_root_cert_sn.clone(),
                roots: trust.roots.clone(),
            }),
        }
    }

    /// Every key: for what needn't say who signed it. Bare ones first, then the newest.
    #[must_use]
    pub fn all_keys(&self) -> Arc<[RsaPublicKey]> {
        if self.trust.is_none() {
            return Arc::clone(&self.bare);
        }
        let certificates = self.certificates.load();
        let certified = certificates.iter().map(|certificate| &certificate.key);
        self.bare.iter().chain(certified).cloned().collect()
    }

    /// The keys for what says that the certificate `alipay_cert_sn` signed it. In key mode the
    /// name means nothing: contract §11.
    pub(crate) fn choose(&self, alipay_cert_sn: Option<&str>) -> Choice {
        if self.trust.is_none() {
            return Choice::Keys(Arc::clone(&self.bare));
        }
        let Some(sn) = alipay_cert_sn else {
            return Choice::Unnamed(self.all_keys());
        };
        let certificates = self.certificates.load();
        match certificates.iter().find(|known| known.sn == sn) {
            Some(known) => Choice::Keys(Arc::from([known.key.clone()])),
            None => Choice::Unknown,
        }
    }

    /// The bare keys.
    pub(crate) fn bare(&self) -> &[RsaPublicKey] {
        &self.bare
    }

    /// Whether a certificate of that name is worth asking Alipay for.
    #[must_use]
    pub fn may_learn(&self, sn: &str) -> bool {
        self.trust.is_some() && is_serial(sn) && matches!(self.choose(Some(sn)), Choice::Unknown)
    }

    /// `alipay_root_cert_sn`, in certificate mode.
    #[must_use]
    pub fn alipay_root_cert_sn(&self) -> Option<&str> {
        let trust = self.trust.as_ref();
        trust.map(|trust| trust.alipay_root_cert_sn.as_str())
    }

    /// Believes the first certificate of `bundle` if it is the one named `sn` and leads up to a
    /// configured root at `now_ms`.
    ///
    /// # Errors
    /// [`CertificateRefusal`]; then nothing changed.
    pub fn learn(&self, sn: &str, bundle: &Bundle, now_ms: i64) -> Result<(), CertificateRefusal> {
        let trust = self.trust.as_ref().ok_or(CertificateRefusal::KeyMode)?;
        let first = bundle.first()?;
        if first.sn() != sn {
            return Err(CertificateRefusal::AnotherSerial { found: first.sn() });
        }
        bundle.check_trust(&trust.roots, now_ms)?;
        let key = first.public_key();
        if key.is_ok_and(|key| self.own.contains(&key)) {
            return Err(CertificateRefusal::Own);
        }
        let certificate = PlatformCertificate::first_of(bundle)
            .map_err(|error| CertificateRefusal::Key(error.to_string()))?;
        self.add(PlatformCertificate {
            is_learned: true,
            ..certificate
        });
        Ok(())
    }

    /// Checks that the first certificate of `bundle` is held by whom a configured one is held by:
    /// the authorities that issue Alipay's certificates issue those of all apps, too, and anybody
    /// can name one of those in a notification. (What a reply names over TLS, Alipay itself named.)
    ///
    /// # Errors
    /// [`CertificateRefusal::Holder`].
    pub fn check_holder(&self, bundle: &Bundle) -> Result<(), CertificateRefusal> {
        let subject = bundle.first()?.subject().to_owned();
        let holder = organisation(&subject);
        let is_configured = |known: &PlatformCertificate| {
            !known.is_learned && organisation(&known.subject) == holder
        };
        match self.certificates().iter().any(is_configured) {
            true => Ok(()),
            false => Err(CertificateRefusal::Holder { subject }),
        }
    }

    /// What platform certificates must lead up to, in certificate mode.
    pub(crate) fn roots(&self) -> Option<&Bundle> {
        self.trust.as_ref().map(|trust| &trust.roots)
    }

    /// The certificates that are trusted at present, newest first.
    #[must_use]
    pub fn certificates(&self) -> Arc<Vec<PlatformCertificate>> {
        self.certificates.load_full()
    }

    fn add(&self, certificate: PlatformCertificate) {
        self.certificates.rcu(|known| {
            let others = known.iter().filter(|other| other.sn != certificate.sn);
            std::iter::once(&certificate)
                .chain(others)
                .cloned()
                .collect::<Vec<_>>()
        });
    }

    /// Takes over what `former` has learned, where both trust the same roots.
    pub(crate) fn inherit(&self, former: &Self) {
        let roots = |keys: &Self| keys.alipay_root_cert_sn().map(ToOwned::to_owned);
        if self.trust.is_none() || roots(self) != roots(former) {
            return;
        }
        // Added oldest first, so that their order stays. What was configured there and isn't here
        // is no longer to be believed.
        for certificate in former.certificates().iter().rev() {
            let is_known = self
                .certificates()
                .iter()
                .any(|own| own.sn == certificate.sn);
            if certificate.is_learned && !is_known {
                self.add(certificate.clone());
            }
        }
    }

    /// Forgets certificates that were learned and have ended at `now_ms`: those that the operator
    /// configured are believed until they are taken away.
    pub fn forget_ended(&self, now_ms: i64) {
        let has_ended = |known: &PlatformCertificate| {
            known.is_learned && known.not_after.is_none_or(|end| end < now_ms)
        };
        if self.certificates().iter().any(has_ended) {
            self.certificates.rcu(|known| {
                let standing = known.iter().filter(|known| !has_ended(known));
                standing.cloned().collect::<Vec<_>>()
            });
        }
    }
}

impl std::fmt::Debug for PlatformKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlatformKeys")
            .field("bare", &self.bare)
            .field("certificates", &self.certificates())
            .finish_non_exhaustive()
    }
}

/// The `O=…` of a name as Java prints it; a comma that belongs to a value stands behind a backslash.
fn organisation(name: &str) -> Option<&str> {
    let mut rest = name;
    loop {
        let mut is_escaped = false;
        let end = rest.find(|c| {
            let is_end = c == ',' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        let (part, behind) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
        if part.starts_with("O=") {
            return Some(part);
        }
        rest = behind.strip_prefix(',')?;
    }
}

/// Whether a text has the form of a serial number: 32 lower-case hexadecimal digits.
fn is_serial(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Who names a certificate that isn't known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// Something that anybody can send us. It has an allowance of its own, so that no stranger
    /// can use up what replies need.
    Notification,
    /// Alipay's reply to a call of ours, over TLS.
    Reply,
}

/// Fetches platform certificates that aren't known yet.
pub trait CertificateSource: Send + Sync + 'static {
    /// Makes the certificate named `sn` known to `app`, see [`PlatformKeys::learn`].
    ///
    /// # Errors
    /// [`CertificateRefusal`]: it can't be had, or isn't to be believed.
    ///
    /// # Cancel safety
    /// Safe: the look-up goes on by itself.
    fn learn<'a>(
        &'a self,
        app: &'a Arc<SigningApp>,
        sn: &'a str,
        asker: Asker,
    ) -> BoxFuture<'a, Result<(), CertificateRefusal>>;
}

/// A source that has nothing: only the configured certificates count.
#[derive(Debug, Clone, Copy)]
pub struct NoSource;

impl CertificateSource for NoSource {
    fn learn<'a>(
        &'a self,
        _: &'a Arc<SigningApp>,
        _: &'a str,
        _: Asker,
    ) -> BoxFuture<'a, Result<(), CertificateRefusal>> {
        let reason = "nothing is there that downloads certificates".to_owned();
        Box::pin(std::future::ready(Err(CertificateRefusal::Unavailable(
            reason,
        ))))
    }
}

/// Why a platform certificate isn't believed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateRefusal {
    /// What was given is another certificate than the one that was named.
    #[error("Alipay gave the certificate {found} instead")]
    AnotherSerial {
        /// The serial number of what was given.
        found: String,
    },
    /// Its chain doesn't hold, or it can't be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// It is held by somebody else than the configured one.
    #[error("it is held by `{subject}`, and the configured one by another")]
    Holder {
        /// Whose it is.
        subject: String,
    },
    /// It is of a key of the app's own.
    #[error("it is of the application's own key")]
    Own,
    /// Its key isn't one that Alipay signs with.
    #[error("{0}")]
    Key(String),
    /// The app isn't in certificate mode.
    #[error("the app is in key mode")]
    KeyMode,
    /// It was asked for in vain a moment ago, or too many others were.
    #[error("too many unknown certificates were named lately; it is asked for again in a minute")]
    TooMany,
    /// Alipay couldn't be asked, or refused to give it.
    #[error("it could not be downloaded: {0}")]
    Unavailable(String),
}

impl CertificateRefusal {
    /// Names the kind of fault in a fixed word for logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AnotherSerial { .. } => "certificate-foreign",
            Self::Certificate(error) => error.kind(),
            Self::Holder { .. } | Self::Own => "certificate-holder",
            Self::Key(_) => "certificate-key",
            Self::KeyMode => "certificate-key-mode",
            Self::TooMany => "certificate-limited",
            Self::Unavailable(_) => "certificate-unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::key::AppPrivateKey;

    const KNOWN: &str = "00000000000000000000000000000001";
    const OTHER: &str = "0123456789abcdef0123456789abcdef";
    const NOW: i64 = 1_800_000_000_000;

    fn key(name: &str) -> RsaPublicKey {
        AppPrivateKey::of_vectors(name).public_key().clone()
    }

    /// Alipay's certificate with its issuer's, and the root that both lead up to.
    fn chain() -> [Bundle; 2] {
        let file = include_str!("../../tests/vectors/cert-sn.json");
        let file: serde_json::Value = serde_json::from_str(file).expect("JSON");
        let case = &file["chain_trust"][0];
        ["chain_pem", "roots_pem"].map(|name| {
            let pem = case[name].as_str().expect("PEM");
            Bundle::parse(pem).expect("certificates")
        })
    }

    fn certificate(sn: &str, is_learned: bool, not_after: Option<i64>) -> PlatformCertificate {
        PlatformCertificate {
            sn: sn.to_owned(),
            key: key("alipay2048"),
            subject: "CN=Alipay,O=Ant".to_owned(),
            text: String::new(),
            pem: String::new(),
            is_learned,
            not_after,
        }
    }

    /// An app in certificate mode, whose root has that name.
    fn certified(root: &str, certificates: Vec<PlatformCertificate>) -> PlatformKeys {
        PlatformKeys {
            bare: Arc::from([key("alipay1024")]),
            own: vec![key("app1024")],
            trust: Some(Trust {
                alipay_root_cert_sn: root.to_owned(),
                roots: chain()[1].clone(),
            }),
            certificates: ArcSwap::from_pointee(certificates),
        }
    }

    fn in_key_mode() -> PlatformKeys {
        PlatformKeys {
            trust: None,
            ..certified("", Vec::new())
        }
    }

    fn names(keys: &PlatformKeys) -> Vec<String> {
        let known = keys.certificates();
        known.iter().map(|known| known.sn.clone()).collect()
    }

    #[test]
    fn in_key_mode_the_bare_keys_count_whatever_is_named() {
        let keys = in_key_mode();
        for sn in [None, Some(KNOWN)] {
            let chosen = keys.choose(sn);
            assert!(matches!(chosen, Choice::Keys(chosen) if *chosen == [key("alipay1024")]));
        }
        assert_eq!(keys.bare(), [key("alipay1024")]);
        assert_eq!(keys.alipay_root_cert_sn(), None);
        assert!(!keys.may_learn(OTHER));
    }

    #[test]
    fn in_certificate_mode_the_named_one_counts_and_no_other() {
        let keys = certified("root", vec![certificate(KNOWN, false, None)]);
        let chosen = keys.choose(Some(KNOWN));
        assert!(matches!(chosen, Choice::Keys(chosen) if *chosen == [key("alipay2048")]));
        assert!(matches!(keys.choose(Some(OTHER)), Choice::Unknown));
        let all = [key("alipay1024"), key("alipay2048")];
        assert!(matches!(keys.choose(None), Choice::Unnamed(chosen) if *chosen == all));
        assert_eq!(keys.alipay_root_cert_sn(), Some("root"));
    }

    #[test]
    fn what_looks_like_a_serial_and_is_unknown_may_be_learned() {
        let keys = certified("root", vec![certificate(KNOWN, false, None)]);
        let (short, long) = (&OTHER[1..], format!("{OTHER}0"));
        for (sn, expected) in [
            (OTHER, true),
            (KNOWN, false),
            (short, false),
            (&long, false),
            (&OTHER.to_uppercase(), false),
            ("0123456789abcdef0123456789abcde/", false),
            ("0123456789abcdef0123456789abcdeg", false),
        ] {
            assert_eq!(keys.may_learn(sn), expected, "{sn}");
        }
    }

    #[test]
    fn what_was_learned_is_inherited_under_the_same_root_in_its_order() {
        let former = certified(
            "root",
            vec![
                certificate("c", true, None),
                certificate("b", true, None),
                certificate("configured there", false, None),
                certificate("a", true, None),
            ],
        );
        let configured = || certificate("b", false, None);
        let keys = certified("root", vec![configured()]);
        keys.inherit(&former);
        assert_eq!(names(&keys), ["c", "a", "b"]);
        let known = keys.certificates();
        assert!(
            known
                .iter()
                .all(|known| known.is_learned == (known.sn != "b"))
        );

        let elsewhere = certified("another", vec![configured()]);
        elsewhere.inherit(&former);
        assert_eq!(names(&elsewhere), ["b"]);
        let in_key_mode = in_key_mode();
        in_key_mode.inherit(&PlatformKeys {
            trust: None,
            ..certified("", vec![certificate("a", true, None)])
        });
        assert_eq!(names(&in_key_mode), [""; 0]);
    }

    #[test]
    fn what_was_learned_is_forgotten_once_it_has_ended() {
        let keys = certified(
            "root",
            vec![
                certificate("ends now", true, Some(NOW)),
                certificate("ended", true, Some(NOW - 1)),
                certificate("no end", true, None),
                certificate("configured", false, Some(NOW - 1)),
            ],
        );
        keys.forget_ended(NOW);
        assert_eq!(names(&keys), ["ends now", "configured"]);
        keys.forget_ended(NOW);
        assert_eq!(names(&keys), ["ends now", "configured"]);
    }

    #[test]
    fn what_leads_up_to_the_root_is_learned_under_its_own_name() {
        let [chain, _] = chain();
        let first = chain.first().expect("a certificate");
        let (sn, key) = (first.sn(), first.public_key().expect("a key"));
        let keys = certified("root", vec![certificate(KNOWN, false, None)]);
        let kind = |keys: &PlatformKeys, sn: &str| {
            let refused = keys.learn(sn, &chain, NOW);
            refused.expect_err("refused").kind()
        };
        assert_eq!(kind(&keys, OTHER), "certificate-foreign");
        assert_eq!(kind(&in_key_mode(), &sn), "certificate-key-mode");
        let mut own = certified("root", Vec::new());
        own.own.push(key.clone());
        assert_eq!(kind(&own, &sn), "certificate-holder");
        let early = keys.learn(&sn, &chain, 0).expect_err("not valid yet");
        assert_eq!(early.kind(), "certificate-expired");
        assert_eq!(names(&keys), [KNOWN]);

        keys.learn(&sn, &chain, NOW).expect("Alipay's");
        assert_eq!(names(&keys), [&*sn, KNOWN]);
        let known = keys.certificates();
        assert!(known[0].is_learned && known[0].key == key);
        // Once more, it takes its own place.
        keys.learn(&sn, &chain, NOW).expect("Alipay's");
        assert_eq!(names(&keys), [&*sn, KNOWN]);
    }

    #[test]
    fn a_holder_is_whom_a_configured_certificate_names() {
        let [chain, _] = chain();
        let subject = chain.first().expect("a certificate").subject().to_owned();
        let check = |subject: &str, is_learned: bool| {
            let known = PlatformCertificate {
                subject: subject.to_owned(),
                ..certificate(KNOWN, is_learned, None)
            };
            let keys = certified("root", vec![known]);
            keys.check_holder(&chain).is_ok()
        };
        assert!(check(&subject, false));
        assert!(!check(&subject, true));
        assert!(!check("CN=Shop,O=Shop,C=CN", false));
        assert!(!check("CN=Shop,O=Shop,C=CN", true));
    }

    #[test]
    fn each_refusal_has_its_word() {
        let subject = String::new;
        for (refusal, kind) in [
            (
                CertificateRefusal::AnotherSerial { found: subject() },
                "certificate-foreign",
            ),
            (
                CertificateRefusal::Holder { subject: subject() },
                "certificate-holder",
            ),
            (CertificateRefusal::Own, "certificate-holder"),
            (CertificateRefusal::Key(subject()), "certificate-key"),
            (CertificateRefusal::KeyMode, "certificate-key-mode"),
            (CertificateRefusal::TooMany, "certificate-limited"),
            (
                CertificateRefusal::Unavailable(subject()),
                "certificate-unavailable",
            ),
        ] {
            assert_eq!(refusal.kind(), kind);
        }
    }

    #[test]
    fn the_organisation_of_a_name_is_found_between_commas_that_divide() {
        for (name, expected) in [
            ("CN=a,OU=b,O=c,C=CN", Some("O=c")),
            ("O=c", Some("O=c")),
            (r"CN=x\,O=forged,O=real\, Ltd.,C=CN", Some(r"O=real\, Ltd.")),
            ("CN=O=c,OU=O=d", None),
            ("", None),
        ] {
            assert_eq!(organisation(name), expected, "{name}");
        }
    }
}
