//! Certificates, good ones and bad ones, under a root that the sidecar trusts.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::{Pkcs1v15Sign, RsaPrivateKey};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha1::{Digest as _, Sha1};

/// The name by which the sidecar calls its upstream.
pub const NAME: &str = "localhost";

/// What a server shows, and the key that it signs the handshake with.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// Roots and what stands below them.
pub struct Authority {
    trusted: Issuer,
    rsa: Issuer,
    stranger: Issuer,
}

impl Authority {
    pub fn new() -> Self {
        let root = |name: &str, key: KeyPair| {
            let params = issuing(name, BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, key).expect("a root")
        };
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
        Self {
            trusted: root("Trusted root", new_key()),
            rsa: root("Trusted RSA root", rsa.expect("a key")),
            stranger: root("Unknown root", new_key()),
        }
    }

    /// The roots that the sidecar is told to trust, PEM.
    pub fn roots(&self) -> String {
        [self.trusted.pem(), self.rsa.pem()].concat()
    }

    /// The one that holds: through an intermediate, as real ones are.
    pub fn good(&self, names: &[&str]) -> Identity {
        let between = self.between(&self.trusted, |_| ());
        signed(leaf(names), &between, &[&between])
    }

    /// The same over RSA alone: what the forged one with SHA-1 differs from.
    pub fn good_rsa(&self) -> Identity {
        signed(leaf(&[NAME]), &self.rsa, &[])
    }

    /// Every bad one, named.
    pub fn bad(&self) -> Vec<(&'static str, Identity)> {
        let mut all = self.bad_leaves();
        all.extend(self.bad_issuers());
        all.push(("signed with SHA-1", self.with_sha1()));
        all.push(("a signature that isn't one", damaged(self.good(&[NAME]))));
        all.push(("the key isn't the certificate's", self.without_key()));
        all
    }

    fn bad_leaves(&self) -> Vec<(&'static str, Identity)> {
        let by_root = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = leaf(&[NAME]);
            change(&mut params);
            signed(params, &self.trusted, &[])
        };
        let of = |names: &[&str]| signed(leaf(names), &self.trusted, &[]);
        vec![
            (
                "expired",
                by_root(&|p| p.not_after = date_time_ymd(2002, 1, 1)),
            ),
            (
                "not valid yet",
                by_root(&|p| p.not_before = date_time_ymd(2098, 1, 1)),
            ),
            ("another name", of(&["openapi.example.com"])),
            ("a longer name", of(&["localhost.example.com"])),
            ("the address instead of the name", of(&["127.0.0.1"])),
            ("a wildcard for everything", of(&["*"])),
            ("a wildcard for part of a name", of(&["local*"])),
            ("a wildcard for a name below", of(&["*.localhost"])),
            (
                "the name as common name alone",
                by_root(&|p| {
                    p.subject_alt_names.clear();
                    p.distinguished_name.push(DnType::CommonName, NAME);
                }),
            ),
            (
                "for clients alone",
                by_root(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            ),
            (
                "an authority's own",
                by_root(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            ),
            (
                "a critical extension that nobody knows",
                by_root(&|p| {
                    let mut unknown = CustomExtension::from_oid_content(
                        &[1, 3, 6, 1, 4, 1, 99_999, 1],
                        vec![5, 0],
                    );
                    unknown.set_criticality(true);
                    p.custom_extensions.push(unknown);
                }),
            ),
        ]
    }

    fn bad_issuers(&self) -> Vec<(&'static str, Identity)> {
        let below = |issuer: Issuer| signed(leaf(&[NAME]), &issuer, &[&issuer]);
        let between =
            |change: &dyn Fn(&mut CertificateParams)| below(self.between(&self.trusted, change));
        let mut truncated = self.good(&[NAME]);
        truncated.chain.truncate(1);
        let own_key = new_key();
        let own = leaf(&[NAME]).self_signed(&own_key).expect("signed");
        let last = self.between(&self.trusted, |p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        });
        let beyond = self.between(&last, |_| ());
        vec![
            (
                "signed by itself",
                Identity {
                    chain: vec![own.der().clone()],
                    key: private(&own_key),
                },
            ),
            (
                "an unknown root",
                signed(leaf(&[NAME]), &self.stranger, &[&self.stranger]),
            ),
            ("the chain is cut off", truncated),
            (
                "the issuer is no authority",
                between(&|p| p.is_ca = IsCa::ExplicitNoCa),
            ),
            (
                "the issuer is for other names",
                between(&|p| {
                    p.name_constraints = Some(NameConstraints {
                        permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".to_owned())],
                        excluded_subtrees: Vec::new(),
                    });
                }),
            ),
            (
                "the issuer is barred from the name",
                between(&|p| {
                    p.name_constraints = Some(NameConstraints {
                        permitted_subtrees: Vec::new(),
                        excluded_subtrees: vec![GeneralSubtree::DnsName(NAME.to_owned())],
                    });
                }),
            ),
            (
                "the issuer is expired",
                between(&|p| p.not_after = date_time_ymd(2002, 1, 1)),
            ),
            (
                "more issuers than the first allows",
                signed(leaf(&[NAME]), &beyond, &[&beyond, &last]),
            ),
        ]
    }

    fn between(&self, above: &Issuer, change: impl Fn(&mut CertificateParams)) -> Issuer {
        let mut params = issuing("Intermediate", BasicConstraints::Unconstrained);
        change(&mut params);
        CertifiedIssuer::signed_by(params, new_key(), above).expect("signed")
    }

    /// What any passer-by has: the good certificate without its key.
    fn without_key(&self) -> Identity {
        Identity {
            key: private(&new_key()),
            ..self.good(&[NAME])
        }
    }

    /// A good one but for the hash: its two algorithm identifiers name SHA-1, and the signature is
    /// the root's own, over SHA-1.
    fn with_sha1(&self) -> Identity {
        const SHA256_WITH_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b];
        let identity = self.good_rsa();
        let mut der = identity.chain[0].to_vec();
        let places: Vec<_> = (0..der.len() - SHA256_WITH_RSA.len())
            .filter(|at| der[*at..].starts_with(&SHA256_WITH_RSA))
            .collect();
        assert_eq!(places.len(), 2);
        for at in places {
            der[at + SHA256_WITH_RSA.len() - 1] = 5;
        }
        // SEQUENCE { SEQUENCE to be signed, SEQUENCE algorithm, BIT STRING signature }, each
        // with a length of two bytes.
        let length = 4 + usize::from(u16::from_be_bytes([der[6], der[7]]));
        let digest = Sha1::digest(&der[4..4 + length]);
        let key = RsaPrivateKey::from_pkcs8_der(&self.rsa.key().serialize_der()).expect("a key");
        let signature = key.sign(Pkcs1v15Sign::new::<Sha1>(), &digest);
        let signature = signature.expect("signed");
        let at = der.len() - signature.len();
        der[at..].copy_from_slice(&signature);
        Identity {
            chain: vec![der.into()],
            ..identity
        }
    }
}

/// A good certificate whose signature has one bit changed.
fn damaged(mut identity: Identity) -> Identity {
    let mut der = identity.chain[0].to_vec();
    *der.last_mut().expect("not empty") ^= 1;
    identity.chain[0] = der.into();
    identity
}

fn leaf(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Upstream");
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2090, 1, 1);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn issuing(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = leaf(&[]);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = Vec::new();
    params
}

/// Signs with a new key; `shown` stand in the chain behind it.
fn signed(params: CertificateParams, issuer: &Issuer, shown: &[&Issuer]) -> Identity {
    let key = new_key();
    let certificate = params.signed_by(&key, issuer).expect("signed");
    let mut chain = vec![certificate.der().clone()];
    chain.extend(shown.iter().map(|issuer| issuer.as_ref().der().clone()));
    Identity {
        chain,
        key: private(&key),
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8")
}
