use std::{io, path::PathBuf};

/// Says why the simulator could not start, or could not do what a test asked of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulatorError {
    /// The listener could not be bound or has no address.
    #[error("binding the simulator's listener on {address}")]
    Bind {
        /// What was to be bound.
        address: String,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The simulator was built without a listener.
    #[error("the simulator has no listener; give the builder one, or an address to bind")]
    NoListener,
    /// `run` was called a second time.
    #[error("the simulator runs already, or has been stopped")]
    AlreadyRun,
    /// A key is not a PEM or bare base64 RSA key.
    #[error("{what} is no RSA key in PKCS#1, PKCS#8 or SPKI form, PEM or bare base64")]
    Key {
        /// Which key it was.
        what: &'static str,
    },
    /// A key is not base64 of an AES key.
    #[error("the encrypt key is no AES key; expected base64 of 16, 24 or 32 bytes")]
    EncryptKey,
    /// No app has this `app_id`, or none was named and several exist.
    #[error("no app `{0}` is known to the simulator")]
    AppUnknown(String),
    /// No merchant application has this `auth_app_id`.
    #[error("no merchant application `{0}` is known to the simulator")]
    MerchantUnknown(String),
    /// No trade has this `out_trade_no`.
    #[error("no trade with out_trade_no `{0}` exists; create one first")]
    TradeUnknown(String),
    /// Several merchants have a trade of this `out_trade_no`, and none was named.
    #[error("several merchants have a trade with out_trade_no `{0}`; say which by auth_app_id")]
    TradeAmbiguous(String),
    /// The merchant's trade of this `out_trade_no` was made by another app.
    #[error("trade `{out_trade_no}` of this merchant is of app `{app_id}`; name that app_id")]
    TradeOfAnotherApp {
        /// Which trade.
        out_trade_no: String,
        /// The app that made it.
        app_id: String,
    },
    /// The trade is not in a state that allows the step.
    #[error("trade `{out_trade_no}` is {status}")]
    TradeState {
        /// Which trade.
        out_trade_no: String,
        /// Its `trade_status`.
        status: &'static str,
    },
    /// Nothing can be encrypted: `set_encrypt_key`, or a merchant with one, is missing.
    #[error("`{0}` has no encrypt key; set one first")]
    NoEncryptKey(String),
    /// The app has no app gateway (应用网关) to send to.
    #[error("app `{0}` has no app gateway address; set one, or give the trigger a `url`")]
    NoAppGateway(String),
    /// The notification was not kept: the simulator is stopping.
    #[error("the simulator is stopping")]
    Stopping,
    /// The simulated authority could not issue a certificate.
    #[error("issuing a certificate")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no event of this name.
    #[error("no event `{0}`; there are {known}", known = super::trigger::Event::names())]
    EventUnknown(String),
    /// There is no fault of this name.
    #[error("no fault `{0}`; there are {known}", known = super::faults::FaultKind::names())]
    FaultUnknown(String),
    /// An option has a value that nothing can be made of.
    #[error("option `{option}` is `{found}`, expected {expected}")]
    OptionInvalid {
        /// Which option.
        option: &'static str,
        /// What it held.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// The folder has files of the same names that are no simulator's.
    #[error("{path} is no simulator's; nothing was written, choose another folder")]
    Occupied {
        /// One of them.
        path: PathBuf,
    },
    /// A file of the workspace could not be written.
    #[error("writing {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
}
