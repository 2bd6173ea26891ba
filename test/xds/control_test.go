package xds

import (
	"fmt"
	"net"
	"testing"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// control is a control plane that serves each name as a service of its own: listener, cluster and endpoint of that name.
type control struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	port     uint32
	identity map[string]string // of each service: the SPIFFE ID that its server has to have
}

// startControl serves it in the clear on loopback, and returns its address.
func startControl(t *testing.T, c *control) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(server, c)
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// StreamAggregatedResources answers what is asked for. What acknowledges an answer asks for nothing else than before.
func (c *control) StreamAggregatedResources(stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	answered := make(map[string]string)
	for n := 1; ; n++ {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		asked := fmt.Sprint(r.GetResourceNames())
		if answered[r.GetTypeUrl()] == asked {
			continue
		}
		answered[r.GetTypeUrl()] = asked
		answer := &discovery.DiscoveryResponse{VersionInfo: fmt.Sprint(n), Nonce: fmt.Sprint(n), TypeUrl: r.GetTypeUrl()}
		for _, name := range r.GetResourceNames() {
			if m := c.resource(r.GetTypeUrl(), name); m != nil {
				answer.Resources = append(answer.Resources, pack(m))
			}
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

func pack(m proto.Message) *anypb.Any {
	packed, err := anypb.New(m)
	if err != nil {
		panic(err) // a message that was made here
	}
	return packed
}

func (c *control) resource(kind, name string) proto.Message {
	switch kind {
	case "type.googleapis.com/envoy.config.listener.v3.Listener":
		return &listener.Listener{Name: name, ApiListener: &listener.ApiListener{ApiListener: pack(&hcm.HttpConnectionManager{
			RouteSpecifier: &hcm.HttpConnectionManager_RouteConfig{RouteConfig: &route.RouteConfiguration{
				Name: name, VirtualHosts: []*route.VirtualHost{{Name: name, Domains: []string{"*"}, Routes: []*route.Route{{
					Match:  &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: ""}},
					Action: &route.Route_Route{Route: &route.RouteAction{ClusterSpecifier: &route.RouteAction_Cluster{Cluster: name}}},
				}}}},
			}},
			HttpFilters: []*hcm.HttpFilter{{Name: "router", ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: pack(&router.Router{})}}},
		})}}
	case "type.googleapis.com/envoy.config.cluster.v3.Cluster":
		return &cluster.Cluster{
			Name: name, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
			EdsClusterConfig: &cluster.Cluster_EdsClusterConfig{EdsConfig: &core.ConfigSource{
				ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
			}},
			TransportSocket: &core.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &core.TransportSocket_TypedConfig{
				TypedConfig: pack(security(c.identity[name])),
			}},
		}
	case "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment":
		address := &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &core.SocketAddress_PortValue{PortValue: c.port},
		}}}
		return &endpoint.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpoint.LocalityLbEndpoints{{
			Locality: &core.Locality{Region: "here"}, LoadBalancingWeight: wrapperspb.UInt32(1),
			LbEndpoints: []*endpoint.LbEndpoint{{HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: address}}}},
		}}}
	}
	return nil
}

// security has the client use its file watcher for both directions, and want one SPIFFE ID of the server.
func security(id string) *tls.UpstreamTlsContext {
	return &tls.UpstreamTlsContext{CommonTlsContext: &tls.CommonTlsContext{
		TlsCertificateProviderInstance: &tls.CertificateProviderPluginInstance{InstanceName: "files"},
		ValidationContextType: &tls.CommonTlsContext_ValidationContext{ValidationContext: &tls.CertificateValidationContext{
			CaCertificateProviderInstance: &tls.CertificateProviderPluginInstance{InstanceName: "files"},
			MatchSubjectAltNames:          []*matcher.StringMatcher{{MatchPattern: &matcher.StringMatcher_Exact{Exact: id}}}, //nolint:staticcheck // what gRPC reads
		}},
	}}
}
