//! Who is there: credentials of devices and tokens of users, from the store. It hashes off the network
//! threads and caches what it verified.

use watchfire_ingest::contract::BoxFuture;
use watchfire_ingest::{Authenticator, Credential, Denied, Principal, Role};
use watchfire_store::{Store, StoreError};

/// Checks credentials for one listener.
pub struct StoreAuthenticator {
    store: Store,
    anonymous: bool,
}

impl StoreAuthenticator {
    /// `anonymous`: who shows no credential is let in. A credential that is shown must be right either way.
    pub fn new(store: Store, anonymous: bool) -> Self {
        Self { store, anonymous }
    }

    async fn check(&self, credential: Credential) -> Result<Principal, Denied> {
        let found = match credential {
            Credential::None if self.anonymous => Some(Principal::Anonymous),
            Credential::None => None,
            Credential::Token(secret) => self.token(&secret).await?,
            Credential::Password { user, password } => {
                if self.store.verify_device(&user, &password).await.map_err(unavailable)? {
                    Some(Principal::Device(user))
                } else {
                    // A user of MQTT has no other place for a token than the password.
                    self.user(&password).await?
                }
            }
        };
        found.ok_or(Denied::NotAccepted)
    }

    async fn token(&self, secret: &str) -> Result<Option<Principal>, Denied> {
        let device = self.store.verify_device_token(secret).await.map_err(unavailable)?;
        match device {
            Some(device) => Ok(Some(Principal::Device(device))),
            None => self.user(secret).await,
        }
    }

    async fn user(&self, secret: &str) -> Result<Option<Principal>, Denied> {
        let token = self.store.verify_token(secret).await.map_err(unavailable)?;
        Ok(token.map(|token| Principal::User { name: token.name, role: role(token.role) }))
    }
}

impl Authenticator for StoreAuthenticator {
    fn authenticate(&self, credential: Credential) -> BoxFuture<'_, Result<Principal, Denied>> {
        Box::pin(self.check(credential))
    }
}

fn unavailable(error: StoreError) -> Denied {
    tracing::error!(%error, "a credential could not be checked");
    Denied::Unavailable(error.to_string())
}

fn role(role: watchfire_store::Role) -> Role {
    match role {
        watchfire_store::Role::Viewer => Role::Viewer,
        watchfire_store::Role::Operator => Role::Operator,
        watchfire_store::Role::Author => Role::Author,
        watchfire_store::Role::Admin => Role::Admin,
    }
}
