//! Keys and certificates change while the simulator runs.
use super::{
    AppMode, CertificateFiles, PlatformCertificate, SimulatedApp, Simulator, aes::ContentKey,
    error::SimulatorError, sign, world::World,
};

impl Simulator {
    /// Gives the three certificate files of an app, as the console would now.
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`], [`SimulatorError::Certificate`].
    pub fn certificate_files(&self, app_id: &str) -> Result<CertificateFiles, SimulatorError> {
        self.0.with_world(|world| {
            let key = world.app(Some(app_id))?.public_key.clone();
            world.platform.certificates()?.files(app_id, &key)
        })
    }

    /// Puts a new platform key and certificate in force for the apps in certificate mode.
    ///
    /// The old certificate can still be downloaded.
    ///
    /// # Errors
    /// [`SimulatorError::Certificate`].
    pub fn rotate_platform_certificate(&self) -> Result<(), SimulatorError> {
        self.0
            .with_world(|world| world.platform.certificates()?.rotate())
    }

    /// Puts a good or a bad platform certificate in force for the apps in certificate mode.
    ///
    /// # Errors
    /// [`SimulatorError::Certificate`].
    pub fn use_platform_certificate(
        &self,
        certificate: PlatformCertificate,
    ) -> Result<(), SimulatorError> {
        self.0
            .with_world(|world| world.platform.certificates()?.use_platform(certificate))
    }

    /// Signs for apps in key mode with another private key (PEM or bare base64) from now on.
    ///
    /// # Errors
    /// [`SimulatorError::Key`].
    pub fn set_platform_key(&self, private_key: &str) -> Result<(), SimulatorError> {
        let key = sign::private_key(private_key)?;
        self.0.with_world(|world| world.platform.set_key(key));
        Ok(())
    }

    /// Registers another public key (PEM or bare base64) of an app; the old one is refused at once.
    ///
    /// In certificate mode this issues another certificate, with another `app_cert_sn`.
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`], [`SimulatorError::Key`].
    pub fn set_app_public_key(&self, app_id: &str, public_key: &str) -> Result<(), SimulatorError> {
        let key = sign::public_key(public_key)?;
        self.with_app(app_id, |app| {
            app.public_key = key;
            app.private_key = None;
        })
    }

    /// Switches an app between key and certificate mode.
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`].
    pub fn set_app_mode(&self, app_id: &str, mode: AppMode) -> Result<(), SimulatorError> {
        self.with_app(app_id, |app| app.mode = mode)
    }

    /// Sets or removes an app's AES key, base64 of 16 bytes.
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`], [`SimulatorError::EncryptKey`].
    pub fn set_encrypt_key(&self, app_id: &str, key: Option<&str>) -> Result<(), SimulatorError> {
        let key = key.map(ContentKey::from_base64).transpose()?;
        self.with_app(app_id, |app| app.encryption.key = key)
    }

    /// Refuses, or takes again, an app's calls that are not encrypted.
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`].
    pub fn require_encryption(&self, app_id: &str, required: bool) -> Result<(), SimulatorError> {
        self.with_app(app_id, |app| app.encryption.required = required)
    }

    fn with_app(
        &self,
        app_id: &str,
        change: impl FnOnce(&mut SimulatedApp),
    ) -> Result<(), SimulatorError> {
        let unknown = || SimulatorError::AppUnknown(app_id.to_owned());
        self.0.with_world(|world: &mut World| {
            world.apps.get_mut(app_id).map(change).ok_or_else(unknown)
        })
    }
}
