// A stock go-libp2p node for test/interop: it does one thing, prints one line of JSON per event, and ends with its stdin.
//
//	peer dial  <tls|noise> <multiaddr>     connect, identify, ping
//	peer relay <tls|noise>                 listen as bootstrap node and circuit relay
//	peer via   <tls|noise> <relay> <peer>  reserve at the relay, then connect to the peer through it and ping
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	ma "github.com/multiformats/go-multiaddr"
)

func say(event string, fields map[string]any) {
	fields["event"] = event
	line, _ := json.Marshal(fields)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		say("failed", map[string]any{"reason": err.Error()})
		os.Exit(1)
	}
}

func security(name string) libp2p.Option {
	if name == "noise" {
		return libp2p.Security(noise.ID, noise.New)
	}
	return libp2p.Security(libp2ptls.ID, libp2ptls.New)
}

func addrInfo(text string) peer.AddrInfo {
	address, err := ma.NewMultiaddr(text)
	check(err)
	info, err := peer.AddrInfoFromP2pAddr(address)
	check(err)
	return *info
}

func meet(ctx context.Context, h host.Host, info peer.AddrInfo) {
	ctx = network.WithAllowLimitedConn(ctx, "interop")
	check(h.Connect(ctx, info))
	result := <-ping.Ping(ctx, h, info.ID)
	check(result.Error)
	agent, _ := h.Peerstore().Get(info.ID, "AgentVersion")
	protocols, _ := h.Peerstore().GetProtocols(info.ID)
	conn := h.Network().ConnsToPeer(info.ID)[0]
	say("met", map[string]any{
		"agent": agent, "protocols": protocols, "security": conn.ConnState().Security, "muxer": conn.ConnState().StreamMultiplexer,
		"address": conn.RemoteMultiaddr().String(), "rttMs": result.RTT.Seconds() * 1000,
	})
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	mode, secure := os.Args[1], os.Args[2]
	options := []libp2p.Option{security(secure), libp2p.EnableRelay()}
	if mode == "relay" {
		options = append(options, libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.ForceReachabilityPublic(),
			libp2p.EnableRelayService(relay.WithInfiniteLimits()))
	} else {
		options = append(options, libp2p.NoListenAddrs)
	}
	h, err := libp2p.New(options...)
	check(err)
	defer h.Close()
	switch mode {
	case "dial":
		meet(ctx, h, addrInfo(os.Args[3]))
	case "relay":
		addresses := []string{}
		for _, address := range h.Addrs() {
			addresses = append(addresses, fmt.Sprintf("%s/p2p/%s", address, h.ID()))
		}
		say("listening", map[string]any{"addresses": addresses})
		io.Copy(io.Discard, os.Stdin)
	case "via":
		relayInfo := addrInfo(os.Args[3])
		check(h.Connect(ctx, relayInfo))
		reservation, err := client.Reserve(ctx, h, relayInfo)
		check(err)
		say("reserved", map[string]any{"until": reservation.Expiration.String()})
		meet(ctx, h, addrInfo(fmt.Sprintf("%s/p2p-circuit/p2p/%s", os.Args[3], os.Args[4])))
	}
}
