/** File in the data directory that tells the CLI where the running node's API is. */
export const API_FILE = 'api.json'
