//! Why a TLS handshake failed, in the words of who has to mend it.

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use time::OffsetDateTime;

/// What the other side did that no connection came of; `error` is any error with that of rustls
/// inside.
pub(crate) fn told(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<Error>() {
        return Some(words(error));
    }
    // It isn't its own wrapper's source, and there may be several of these.
    let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    told(inner)
}

fn words(error: &Error) -> String {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it doesn't speak TLS there: is that the port of plain HTTP?".to_owned()
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion)
        | Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => "it speaks neither TLS 1.2 nor TLS 1.3".to_owned(),
        Error::AlertReceived(alert) => {
            format!("it refused the TLS handshake by the alert {alert:?}; its own log may say why")
        }
        Error::InvalidCertificate(error) => certificate(error),
        Error::NoCertificatesPresented => "it shows no certificate".to_owned(),
        other => format!("the TLS handshake with it failed ({other})"),
    }
}

fn certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        // rustls says so, too, of one whose beginning is after its end.
        E::Expired => "its certificate has ended, or ends before it begins".to_owned(),
        E::ExpiredContext { not_after, .. } => format!(
            "its certificate ended on {}: it must be renewed there, unless this machine's clock is \
             wrong",
            day(*not_after)
        ),
        E::NotValidYet => {
            "its certificate isn't valid yet; is this machine's clock right?".to_owned()
        }
        E::NotValidYetContext { not_before, .. } => format!(
            "its certificate isn't valid before {}; is this machine's clock right?",
            day(*not_before)
        ),
        E::UnknownIssuer => {
            "its certificate comes from an authority that isn't trusted here: is something between \
             that opens TLS? (`upstream.ca_file` adds authorities)"
                .to_owned()
        }
        E::NotValidForName => "its certificate is for another name".to_owned(),
        E::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "its certificate is for {}, not for {}",
            names(presented),
            expected.to_str()
        ),
        E::BadSignature => "its certificate isn't signed by whom it names".to_owned(),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "its certificate isn't one for servers".to_owned()
        }
        // The type stands in a crate of which rustls shows no more than the text.
        E::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "its certificate is an authority's (CA), not a server's".to_owned()
        }
        E::Other(other) if other.to_string() == "EndEntityUsedAsCa" => {
            "its certificate was issued under one that is no authority's (CA)".to_owned()
        }
        other => format!("its certificate can't be used ({other})"),
    }
}

/// `DnsName("a.example")` is how rustls says a name.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let quoted = name.split('"').nth(1);
        quoted.unwrap_or(name).to_owned()
    };
    match presented {
        [] => "no name at all".to_owned(),
        names => names.iter().map(bare).collect::<Vec<_>>().join(", "),
    }
}

fn day(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let date = OffsetDateTime::from_unix_timestamp(seconds).map(OffsetDateTime::date);
    date.map_or_else(|_| format!("the second {seconds}"), |date| date.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn an_operator_reads_what_is_wrong_and_not_how_rustls_names_it() {
        let of = |error: CertificateError| Error::InvalidCertificate(error);
        let ended = CertificateError::ExpiredContext {
            time: UnixTime::since_unix_epoch(std::time::Duration::from_secs(2_000_000_000)),
            not_after: UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_000_000_000)),
        };
        let for_other = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("localhost").expect("a name"),
            presented: vec!["DnsName(\"a.example\")".to_owned()],
        };
        for (error, expected) in [
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "it doesn't speak TLS",
            ),
            (
                Error::AlertReceived(AlertDescription::ProtocolVersion),
                "neither TLS 1.2 nor TLS 1.3",
            ),
            (
                Error::AlertReceived(AlertDescription::HandshakeFailure),
                "by the alert HandshakeFailure",
            ),
            (of(ended), "ended on 2001-09-09"),
            (of(for_other), "is for a.example, not for localhost"),
            (of(CertificateError::UnknownIssuer), "upstream.ca_file"),
        ] {
            let wrapped = std::io::Error::other(std::io::Error::other(error));
            let found = told(&wrapped).expect("an error of rustls");
            assert!(found.contains(expected), "{found}");
        }
        assert_eq!(told(&std::io::Error::other("else")), None);
    }

    #[test]
    fn what_rustls_only_shows_as_text_is_told_by_it() {
        let other = OtherError(Arc::new(std::io::Error::other("CaUsedAsEndEntity")));
        let error = Error::InvalidCertificate(CertificateError::Other(other));
        assert!(words(&error).contains("an authority's (CA), not a server's"));
    }
}
