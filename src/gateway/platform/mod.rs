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
            own: own.map(|key| key.public.clone()).collect(),
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

    /// Adds one that was learned. One that the operator configured since stays what it is: by its
    /// holder those that notifications name are judged.
    fn add(&self, certificate: PlatformCertificate) {
        self.certificates.rcu(|known| {
            let is_same = |other: &PlatformCertificate| other.sn == certificate.sn;
            if known
                .iter()
                .any(|other| is_same(other) && !other.is_learned)
            {
                return known.to_vec();
            }
            let others = known.iter().filter(|other| !is_same(other));
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
            if certificate.is_learned {
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
    /// Alipay couldn't be asked.
    #[error("it could not be downloaded: {0}")]
    Unavailable(String),
    /// Alipay was asked, and didn't give it.
    #[error("it could not be downloaded: Alipay refused it ({0})")]
    Withheld(String),
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
            Self::Unavailable(_) | Self::Withheld(_) => "certificate-unavailable",
        }
    }
}

#[cfg(test)]
mod tests;
