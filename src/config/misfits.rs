//! What a configuration that a program made itself is refused for: what is dangerous, or can't be
//! served. Reading a file refuses the same, and more, each at its place.

use crate::config::Config;
use crate::config::admin::{self, AdminConfig};
use crate::config::delivery::{self, DeliveryConfig};
use crate::config::error::{Fault, Mismatch};
use crate::config::tls;

impl Config {
    /// What of these values is dangerous or can't be served, whoever set them: an admin listener off
    /// loopback without a token, or a token that no header can hold; half of a certificate's pair; tokens
    /// in clear text; a signing secret that is none. One that was read has nothing of it. Of what they
    /// name nothing is looked at, and what reading a file would put into another form is none of it.
    #[must_use]
    pub fn misfits(&self) -> Vec<Fault> {
        let faults = of_admin(&self.admin).into_iter();
        let faults = faults.chain(of_delivery(&self.delivery));
        faults.chain(halves(self)).collect()
    }
}

fn of_admin(admin: &AdminConfig) -> Option<Fault> {
    let mismatch = match &admin.token {
        None if admin.listen.is_local() => return None,
        None => Mismatch::new("nothing", admin::TOKEN_NEEDED),
        Some(token) => admin::check_token(token).err()?,
    };
    Some(Fault::of_key("admin.token", mismatch))
}

fn of_delivery(delivery: &DeliveryConfig) -> Vec<Fault> {
    let tells = delivery.tells_tokens();
    let tells = tells.map(|mismatch| Fault::of_key("delivery.authorization", mismatch));
    // Under an empty one anybody could sign.
    let secret = delivery.signing_secret.as_ref();
    let secret = secret.and_then(|secret| delivery::check_signing_secret(secret).err());
    let secret = secret.map(|mismatch| Fault::of_key("delivery.signing_secret", mismatch));
    tells.into_iter().chain(secret).collect()
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
