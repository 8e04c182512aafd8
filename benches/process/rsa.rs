//! The keys, and the RSA that a signed call can't do without, by aws-lc itself.

use std::time::{Duration, Instant};

use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::signature::SignType;
use anyhow::Context;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::time::{ClockId, clock_gettime};

use crate::load::micros;

/// What a call signs, in length and alphabet.
const SIGN_CONTENT: &str = r#"app_auth_token=202611BB00000000000000000000000000001001&app_id=2021000000000001&biz_content={"out_trade_no":"20261122180000000001","query_options":["trade_settle_info"]}&charset=utf-8&format=JSON&method=alipay.trade.query&sign_type=RSA2&timestamp=2026-11-22 18:00:00&version=1.0"#;
/// What a reply signs.
pub(crate) const NODE: &str = r#"{"code":"10000","msg":"Success","buyer_logon_id":"159****5620","buyer_pay_amount":"88.88","buyer_user_id":"2088000000002001","fund_bill_list":[{"amount":"88.88","fund_channel":"ALIPAYACCOUNT"}],"invoice_amount":"88.88","out_trade_no":"20261122180000000001","point_amount":"0.00","receipt_amount":"88.88","send_pay_date":"2026-11-22 18:00:00","store_name":"证大五道口店","total_amount":"88.88","trade_no":"2026112222001400000000000001","trade_status":"TRADE_SUCCESS"}"#;

/// The same of a trade that was created.
pub(crate) const CREATED: &str = r#"{"code":"10000","msg":"Success","out_trade_no":"20261122180000000001","trade_no":"2026112222001400000000000001"}"#;

/// A private key and a signed text, both parsed by aws-lc.
pub(crate) struct Rsa {
    private: KeyPair,
    public: ParsedPublicKey,
    /// Over `NODE`.
    signature: Vec<u8>,
}

impl Rsa {
    /// Signs with `private`, given as PKCS#8 PEM, and verifies what it signed.
    pub(crate) fn new(private: &str) -> anyhow::Result<Self> {
        let key = AppPrivateKey::from_text(private)?;
        let der: String = private.lines().filter(|l| !l.starts_with('-')).collect();
        let sign = key.sign(SignType::Rsa2, NODE.as_bytes())?;
        Ok(Self {
            private: KeyPair::from_pkcs8(&STANDARD.decode(der)?)?,
            public: ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().spki())?,
            signature: STANDARD.decode(sign)?,
        })
    }

    pub(crate) fn sign(&self) -> anyhow::Result<Vec<u8>> {
        let mut signature = vec![0; self.private.public_modulus_len()];
        let (random, content) = (SystemRandom::new(), SIGN_CONTENT.as_bytes());
        self.private
            .sign(&RSA_PKCS1_SHA256, &random, content, &mut signature)?;
        Ok(signature)
    }

    pub(crate) fn verify(&self) -> anyhow::Result<()> {
        Ok(self.public.verify_sig(NODE.as_bytes(), &self.signature)?)
    }

    /// How long both take together on an idle machine, µs each.
    pub(crate) fn alone(&self, time: Duration) -> anyhow::Result<Vec<f64>> {
        let (began, mut times) = (Instant::now(), Vec::new());
        while began.elapsed() < time {
            let start = Instant::now();
            std::hint::black_box(self.sign()?);
            self.verify()?;
            times.push(micros(start.elapsed()));
        }
        Ok(times)
    }

    /// What both take together while every core does the same: two cores may share what one of
    /// them has.
    pub(crate) fn on_all_cores(&self, time: Duration) -> anyhow::Result<Computed> {
        let cores = std::thread::available_parallelism()?.get();
        std::thread::scope(|scope| {
            let work = |_| scope.spawn(|| self.of_one_core(time));
            let threads: Vec<_> = (0..cores).map(work).collect();
            let mut all = Computed::default();
            for thread in threads {
                all.add(&thread.join().ok().context("a panic")??);
            }
            Ok(all)
        })
    }

    fn of_one_core(&self, time: Duration) -> anyhow::Result<Computed> {
        let (began, before, mut count) = (Instant::now(), own_time(), 0.0);
        while began.elapsed() < time {
            std::hint::black_box(self.sign()?);
            self.verify()?;
            count += 1.0;
        }
        let used = micros(own_time().saturating_sub(before));
        Ok(Computed { used, count })
    }
}

/// Signatures that were made and verified.
#[derive(Default)]
pub(crate) struct Computed {
    /// Processor time, µs.
    used: f64,
    count: f64,
}

impl Computed {
    /// Weighed as calls are: by how many there were, so that a slow while counts for less in both.
    pub(crate) fn add(&mut self, further: &Self) {
        self.used += further.used;
        self.count += further.count;
    }

    /// Processor time of one, µs.
    pub(crate) fn each(&self) -> f64 {
        self.used / self.count
    }
}

/// Processor time of this thread.
fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}
