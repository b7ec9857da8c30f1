//! A stock rust-libp2p node for test/interop: it does one thing, prints one line of JSON per event, and ends with its stdin.
//!
//!     peer dial  <tls|noise> <multiaddr>      connect, identify, ping
//!     peer relay <tls|noise> [kad protocol]   listen as bootstrap node and circuit relay, and as server of that DHT
//!     peer via   <tls|noise> <relay> <peer>   reserve at the relay, then connect to the peer through it and ping

use std::{env, error::Error, process::exit, time::Duration};

use futures::StreamExt;
use libp2p::{
    identify, kad,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{behaviour::toggle::Toggle, NetworkBehaviour, SwarmEvent},
    tcp, tls, yamux, Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
};
use serde_json::{json, Value};
use tokio::{
    io::{self, AsyncReadExt},
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

type Failure = Box<dyn Error>;

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    client: relay::client::Behaviour,
    relay: Toggle<relay::Behaviour>,
    kad: Toggle<kad::Behaviour<kad::store::MemoryStore>>,
}

fn say(event: &str, mut fields: Value) {
    fields["event"] = json!(event);
    println!("{fields}");
}

fn create(security: &str, is_relay: bool, dht: Option<&String>) -> Result<Swarm<Behaviour>, Failure> {
    let behaviour = |key: &libp2p::identity::Keypair, client: relay::client::Behaviour| -> Result<Behaviour, Box<dyn Error + Send + Sync>> {
        let peer = key.public().to_peer_id();
        let generous = relay::Config { max_circuit_bytes: 1 << 30, max_circuit_duration: HOUR, ..Default::default() };
        let kad = match dht {
            None => None,
            Some(protocol) => {
                let config = kad::Config::new(StreamProtocol::try_from_owned(protocol.clone())?);
                let mut kad = kad::Behaviour::with_config(peer, kad::store::MemoryStore::new(peer), config);
                kad.set_mode(Some(kad::Mode::Server));
                Some(kad)
            }
        };
        Ok(Behaviour {
            identify: identify::Behaviour::new(identify::Config::new("/ipfs/0.1.0".into(), key.public())),
            ping: ping::Behaviour::default(),
            client,
            relay: is_relay.then(|| relay::Behaviour::new(peer, generous)).into(),
            kad: kad.into(),
        })
    };
    // The builder has another type for each kind of security.
    macro_rules! build {
        ($security:expr) => {
            SwarmBuilder::with_new_identity()
                .with_tokio()
                .with_tcp(tcp::Config::default().nodelay(true), $security, yamux::Config::default)?
                .with_relay_client($security, yamux::Config::default)?
                .with_behaviour(behaviour)?
                .with_swarm_config(|config| config.with_idle_connection_timeout(HOUR))
                .build()
        };
    }
    Ok(if security == "noise" { build!(noise::Config::new) } else { build!(tls::Config::new) })
}

fn peer_of(address: &Multiaddr) -> Result<PeerId, Failure> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Ok(peer),
        _ => Err(format!("{address} names no peer").into()),
    }
}

/// Waits until the peer has identified itself and answered a ping, the connection being dialled or there.
async fn meet(swarm: &mut Swarm<Behaviour>, address: Multiaddr, security: &str) -> Result<(), Failure> {
    let peer = peer_of(&address)?;
    swarm.dial(address)?;
    let mut met = json!({ "security": if security == "noise" { "/noise" } else { "/tls/1.0.0" }, "muxer": "/yamux/1.0.0" });
    while met["agent"].is_null() || met["rttMs"].is_null() {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } if peer_id == peer => {
                met["address"] = json!(endpoint.get_remote_address().to_string());
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) if peer_id == peer => {
                met["agent"] = json!(info.agent_version);
                met["protocols"] = json!(info.protocols.iter().map(ToString::to_string).collect::<Vec<_>>());
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) if event.peer == peer => {
                met["rttMs"] = json!(event.result?.as_secs_f64() * 1000.0);
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
    say("met", met);
    Ok(())
}

async fn reserve(swarm: &mut Swarm<Behaviour>, relay: &Multiaddr) -> Result<(), Failure> {
    swarm.listen_on(relay.clone().with(Protocol::P2pCircuit))?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(BehaviourEvent::Client(relay::client::Event::ReservationReqAccepted { .. })) => break,
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            SwarmEvent::ListenerClosed { reason, .. } => reason?,
            _ => {}
        }
    }
    say("reserved", json!({}));
    Ok(())
}

async fn serve(swarm: &mut Swarm<Behaviour>) -> Result<(), Failure> {
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let mut stdin = io::stdin();
    let mut rest = [0; 64];
    loop {
        tokio::select! {
            event = swarm.select_next_some() => {
                if let SwarmEvent::NewListenAddr { address, .. } = event {
                    // Those that reserve are told it.
                    swarm.add_external_address(address.clone());
                    say("listening", json!({ "addresses": [format!("{address}/p2p/{}", swarm.local_peer_id())] }));
                }
            }
            read = stdin.read(&mut rest) => if read? == 0 { return Ok(()) },
        }
    }
}

async fn run(args: &[String]) -> Result<(), Failure> {
    let [mode, security, rest @ ..] = args else { return Err("what to do?".into()) };
    let is_relay = mode == "relay";
    let mut swarm = create(security, is_relay, if is_relay { rest.first() } else { None })?;
    match (mode.as_str(), rest) {
        ("relay", _) => serve(&mut swarm).await,
        ("dial", [address]) => timeout(LIMIT, meet(&mut swarm, address.parse()?, security)).await?,
        ("via", [relay, peer]) => timeout(LIMIT, async {
            let relay: Multiaddr = relay.parse()?;
            reserve(&mut swarm, &relay).await?;
            let address = relay.with(Protocol::P2pCircuit).with(Protocol::P2p(peer.parse()?));
            meet(&mut swarm, address, security).await
        })
        .await?,
        _ => Err("unknown mode".into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(error) = run(&env::args().skip(1).collect::<Vec<_>>()).await {
        say("failed", json!({ "reason": error.to_string() }));
        exit(1);
    }
}
