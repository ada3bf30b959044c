//! What an error of the brokers means: by its code (Apache Kafka protocol guide, "Error codes", and librdkafka's own
//! below zero).

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::Fault;

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Later it may pass.
    Retry(&'static str),
    /// The message, or another one of its batch, is refused for what it is.
    Refused,
    /// It failed along with another, which says why.
    Along,
}

/// What a code means.
pub fn class(code: RDKafkaErrorCode) -> Class {
    use RDKafkaErrorCode as Code;
    match code {
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidMessage
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::PolicyViolation
        | Code::BadMessage => Class::Refused,
        Code::InvalidDifferentRecord
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::Fatal
        | Code::GaplessGuarantee
        | Code::OutOfOrderSequenceNumber
        | Code::Retry => Class::Along,
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => Class::Retry("credentials"),
        Code::SSL => Class::Retry("tls"),
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SecurityDisabled => Class::Retry("not-permitted"),
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId
        | Code::InvalidTopic => Class::Retry("no-topic"),
        Code::ThrottlingQuotaExceeded => Class::Retry("throttled"),
        Code::Fenced
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::TransactionCoordinatorFenced => Class::Retry("fenced"),
        // The brokers have forgotten who we were, or a transaction took longer than they wait.
        Code::InvalidProducerIdMapping
        | Code::UnknownProducerId
        | Code::InvalidTransactionalState
        | Code::ConcurrentTransactions
        | Code::DuplicateSequenceNumber
        | Code::State => Class::Retry("anew"),
        Code::KafkaStorageError | Code::LogDirNotFound => Class::Retry("disk"),
        Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::ISRInsufficient
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::ReplicaNotAvailable
        | Code::PreferredLeaderNotAvailable
        | Code::EligibleLeadersNotAvailable => Class::Retry("replicas"),
        Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::InvalidRequiredAcks
        | Code::InvalidTransactionTimeout
        | Code::InvalidArgument
        | Code::InvalidConfig
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidReplicaAssignment
        | Code::BadCompression
        | Code::NotConfigured
        | Code::NotImplemented => Class::Retry("configuration"),
        Code::MessageTimedOut | Code::TimedOutQueue | Code::OperationTimedOut | Code::RequestTimedOut => {
            Class::Retry("slow")
        }
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::BrokerDestroy
        | Code::DestroyBroker
        | Code::UnknownBroker
        | Code::BrokerNotAvailable
        | Code::NetworkException
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::WaitingForCoordinator
        | Code::RebootstrapRequired => Class::Retry("unreachable"),
        _ => Class::Retry("refused"),
    }
}

/// As a fault, without values of properties.
pub fn fault(error: &KafkaError) -> Fault {
    let code = error.rdkafka_error_code();
    let code = match (error, code) {
        (KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_), _) => "configuration",
        (_, Some(code)) => match class(code) {
            Class::Retry(code) => code,
            Class::Along => "anew",
            Class::Refused => "refused",
        },
        (_, None) => "unreachable",
    };
    match error {
        // It may name a value that is a secret.
        KafkaError::ClientConfig(_, _, property, _) => {
            Fault::new(code, format!("librdkafka does not take the property {property}"))
        }
        error => Fault::new(code, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_fault_has_its_code() {
        use RDKafkaErrorCode as Code;
        for (code, expected) in [
            (Code::AllBrokersDown, Class::Retry("unreachable")),
            (Code::SaslAuthenticationFailed, Class::Retry("credentials")),
            (Code::TopicAuthorizationFailed, Class::Retry("not-permitted")),
            (Code::UnknownTopicOrPartition, Class::Retry("no-topic")),
            (Code::ThrottlingQuotaExceeded, Class::Retry("throttled")),
            (Code::ProducerFenced, Class::Retry("fenced")),
            (Code::MessageSizeTooLarge, Class::Refused),
            (Code::InvalidRecord, Class::Refused),
            (Code::InvalidDifferentRecord, Class::Along),
            (Code::PurgeQueue, Class::Along),
            // What nobody thought of is tried again, and never lost.
            (Code::Unknown, Class::Retry("refused")),
        ] {
            assert_eq!(class(code), expected, "{code:?}");
        }
    }

    #[test]
    fn a_property_that_is_wrong_is_named_without_its_value() {
        let mut config = rdkafka::ClientConfig::new();
        config.set("socket.timeout.ms", "secret");
        let Err(error) = config.create_native_config() else { panic!("librdkafka takes it") };
        let Fault { code, reason } = fault(&error);
        assert_eq!(code, "configuration");
        assert!(reason.contains("socket.timeout.ms") && !reason.contains("secret"), "{reason}");
    }
}
