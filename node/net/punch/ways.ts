/** Ways to open a direct link; WebRTC is tried where the first two fail. */
export const PUNCH_WAYS = Object.freeze(['udp', 'tcp', 'webrtc'] as const)

export type PunchWay = (typeof PUNCH_WAYS)[number]
