//! What `my.getPhoneNumber` and its like give the front end of a mini program.
use serde_json::json;

use super::{Simulator, aes::ContentKey, charset::Charset, error::SimulatorError, sign::SignType};

impl Simulator {
    /// Gives the message of a success: `json` encrypted by the merchant's AES key, signed for the
    /// app that the front end named as `isvAppId`.
    ///
    /// Protocol: 用户手机号 (`my.getPhoneNumber`); the signature is over the ciphertext in quotes.
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`], [`SimulatorError::MerchantUnknown`],
    /// [`SimulatorError::NoEncryptKey`], [`SimulatorError::EncryptKey`].
    pub fn client_data(
        &self,
        app_id: &str,
        auth_app_id: &str,
        json: &str,
    ) -> Result<String, SimulatorError> {
        let key = self.0.with_world(|world| {
            let key = world.merchant(Some(auth_app_id))?.encrypt_key.clone();
            key.ok_or_else(|| SimulatorError::NoEncryptKey(auth_app_id.to_owned()))
        })?;
        let response = ContentKey::from_base64(&key)?
            .encrypt(json.as_bytes())
            .ok_or(SimulatorError::EncryptKey)?;
        self.client_message(app_id, &response, &format!("\"{response}\""))
    }

    /// Gives the message of a failure, which is not encrypted: `json` itself, signed.
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`].
    pub fn plain_client_data(&self, app_id: &str, json: &str) -> Result<String, SimulatorError> {
        self.client_message(app_id, json, json)
    }

    fn client_message(
        &self,
        app_id: &str,
        response: &str,
        content: &str,
    ) -> Result<String, SimulatorError> {
        let signer = self.0.with_world(|world| {
            world.app(Some(app_id))?;
            world.signer(app_id, Charset::Utf8)
        })?;
        let sign = SignType::Rsa2.sign(&signer.key, content.as_bytes());
        Ok(json!({"response": response, "sign": sign}).to_string())
    }
}
