//! Who is there: credentials of devices and tokens of users, from the store, and what a device may, from the
//! registry. It hashes off the network threads and caches what it verified.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use watchfire_api::control::ControlPlane;
use watchfire_ingest::contract::{BoxFuture, Revocation};
use watchfire_ingest::{Authenticator, Credential, Denied, Principal, Role};
use watchfire_model::Timestamp;
use watchfire_store::{Checked, Revoked, Store, StoreError, TokenRow};

/// How late a connection is closed whose token is over.
const LATE: Duration = Duration::from_secs(5);

/// Checks credentials for one listener.
pub struct StoreAuthenticator {
    store: Store,
    control: Arc<ControlPlane>,
    anonymous: bool,
    registers: bool,
    /// Somebody closes connections when told to.
    watched: AtomicBool,
    expiring: Arc<Expiring>,
}

/// Tokens that somebody came in with, and when they are over.
#[derive(Default)]
struct Expiring(Mutex<BTreeSet<(Timestamp, String)>>);

impl Expiring {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<(Timestamp, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are over by now.
    fn over(&self, now: Timestamp) -> Vec<String> {
        let mut all = self.lock();
        let later = all.split_off(&(Timestamp(now.0 + 1), String::new()));
        std::mem::replace(&mut *all, later).into_iter().map(|(_, name)| name).collect()
    }
}

impl StoreAuthenticator {
    /// `anonymous`: who shows no credential is let in. A credential that is shown must be right either way. `registers`:
    /// so is the certificate of a device that is not registered, as its first reading registers it.
    pub fn new(store: Store, control: Arc<ControlPlane>, anonymous: bool, registers: bool) -> Self {
        let watched = AtomicBool::new(false);
        Self { store, control, anonymous, registers, watched, expiring: Arc::default() }
    }

    async fn check(&self, credential: Credential, from: Option<IpAddr>) -> Result<Principal, Denied> {
        let found = match credential {
            Credential::None if self.anonymous => Some(Principal::Anonymous),
            Credential::None => None,
            Credential::Token(secret) => self.token(&secret).await?,
            Credential::Certificate(device) => {
                let known = self.registers || self.control.registries().find(&device).is_some();
                known.then(|| {
                    self.store.note_certificate(&device);
                    self.device(&device)
                })
            }
            Credential::Password { user, password } => {
                match self.store.check_device(&user, &password, from).await.map_err(unavailable)? {
                    Checked::Right => Some(self.device(&user)),
                    // A user of MQTT has no other place for a token than the password.
                    Checked::Wrong => self.user(&password).await?,
                    Checked::Later => {
                        return Err(Denied::Unavailable("too many wrong passwords came before".into()));
                    }
                }
            }
        };
        found.ok_or(Denied::NotAccepted)
    }

    fn device(&self, id: &str) -> Principal {
        Principal::device(&self.control.registries(), id)
    }

    async fn token(&self, secret: &str) -> Result<Option<Principal>, Denied> {
        let device = self.store.verify_device_token(secret).await.map_err(unavailable)?;
        match device {
            Some(device) => Ok(Some(self.device(&device))),
            None => self.user(secret).await,
        }
    }

    async fn user(&self, secret: &str) -> Result<Option<Principal>, Denied> {
        let token = self.store.verify_token(secret).await.map_err(unavailable)?;
        if let Some(TokenRow { name, expires_at: Some(time), .. }) = &token
            && self.watched.load(Ordering::Relaxed)
        {
            self.expiring.lock().insert((*time, name.clone()));
        }
        Ok(token.map(|token| Principal::User { name: token.name, role: role(token.role) }))
    }
}

impl Authenticator for StoreAuthenticator {
    fn authenticate(
        &self,
        credential: Credential,
        from: Option<IpAddr>,
    ) -> BoxFuture<'_, Result<Principal, Denied>> {
        Box::pin(self.check(credential, from))
    }

    fn revocations(&self) -> Option<broadcast::Receiver<Revocation>> {
        self.watched.store(true, Ordering::Relaxed);
        let (sender, receiver) = broadcast::channel(1024);
        let (revoked, rechecks) = (self.store.revocations(), self.control.rechecks());
        tokio::spawn(tell(self.store.clone(), revoked, rechecks, self.expiring.clone(), sender));
        Some(receiver)
    }
}

/// Tells what was taken back, what changed, and what is over by time, until nobody listens.
async fn tell(
    store: Store,
    mut revoked: broadcast::Receiver<Revoked>,
    mut rechecks: broadcast::Receiver<String>,
    expiring: Arc<Expiring>,
    sender: broadcast::Sender<Revocation>,
) {
    // The role is no part of the name.
    let user = |name: String| Revocation::Of(Principal::User { name, role: Role::Viewer }.name());
    let device = |id: String| Revocation::Of(Principal::Device(id).name());
    loop {
        let told = tokio::select! {
            told = revoked.recv() => match told {
                Ok(Revoked::Device(id)) => vec![device(id)],
                Ok(Revoked::Token(name)) => vec![user(name)],
                Err(RecvError::Lagged(_)) => vec![Revocation::Unknown],
                Err(RecvError::Closed) => return,
            },
            told = rechecks.recv() => match told {
                Ok(id) => vec![device(id)],
                Err(RecvError::Lagged(_)) => vec![Revocation::Unknown],
                Err(RecvError::Closed) => return,
            },
            () = tokio::time::sleep(LATE) => expiring.over(store.wall()).into_iter().map(user).collect(),
        };
        // Nobody listens any more where there are no receivers.
        if sender.receiver_count() == 0 {
            return;
        }
        for revocation in told {
            let _ = sender.send(revocation);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_over_when_their_time_is() {
        let expiring = Expiring::default();
        for (time, name) in [(10, "a"), (20, "b"), (20, "c")] {
            expiring.lock().insert((Timestamp(time), name.into()));
        }
        assert_eq!(expiring.over(Timestamp(9)), Vec::<String>::new());
        assert_eq!(expiring.over(Timestamp(10)), ["a"]);
        assert_eq!(expiring.over(Timestamp(30)), ["b", "c"]);
        assert!(expiring.lock().is_empty());
    }
}
